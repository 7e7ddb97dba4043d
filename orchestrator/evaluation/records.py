"""What is recorded about an evaluation of a finished run, and whether it is up to date."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.registry import is_class_name
from orchestrator.study.identity import code_version, user_code_version
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.study.user_code import modules_named, modules_of
from orchestrator.tracking.datasets import DatasetKey
from orchestrator.tracking.evaluations import log_evaluation
from orchestrator.tracking.store import TrackingStore
from pipelines.evaluation.config import EvaluationConfig, InferenceConfig, MetricConfig
from pipelines.evaluation.counts import write_counts
from pipelines.evaluation.statistics_file import write_statistics

if TYPE_CHECKING:
    from orchestrator.evaluation.trained_model import TrainedModel
    from pipelines.data.dataset import PreparedDataset
    from pipelines.evaluation.scores import Scores

# Descriptions of the checkpoints of `TrainedModel.checkpoint`.
CHECKPOINTS = {
    "best": "best on validation",
    "last": "last",
    "model": "as the model was saved",
}


def protocol_tag(config: InferenceConfig) -> str:
    """Return the tag, in JSON, that records how a model was applied and which metrics were
    computed."""
    inference = {key: getattr(config, key) for key in asdict(InferenceConfig())}
    recorded = {**inference, "stride": config.step}
    if isinstance(config, EvaluationConfig) and config.metrics:
        recorded["metrics"] = [_described(each) for each in config.metric_configs]
    return json.dumps(recorded)


def _described(metric: MetricConfig) -> dict[str, Any]:
    """Return what identifies a metric's scores: its configuration, and the source of a custom
    one."""
    described = asdict(metric)
    if is_class_name(metric.name):
        described["code"] = user_code_version(modules_named([metric.name]))
    return described


def missing_protocols(
    study: Study, trial: ResolvedTrial, recorded: Mapping[str, Mapping[str, str]]
) -> Iterator[tuple[str, str, EvaluationConfig]]:
    """Yield name, split and settings of the study's protocols under which a finished trial is not
    scored. recorded: the tags of its run's evaluations, by name.

    A trial without a validation split is only scored under protocols that name a split.
    """
    fingerprint = trial.dataset.manifest.fingerprint
    for name, protocol in study.config.protocols.items():
        split = study.config.scored_split(name, trial.experiment.data.validation_split)
        if split is not None:
            config = protocol.evaluation(trial.experiment.evaluation)
            if not is_current(recorded.get(name, {}), config, fingerprint, split):
                yield name, split, config


def is_current(
    recorded: Mapping[str, str], config: InferenceConfig, fingerprint: str, split: str
) -> bool:
    """Whether an evaluation with the tags `recorded` is the requested one."""
    return not evaluation_differences(recorded, config, fingerprint, split)


def evaluation_differences(
    recorded: Mapping[str, str], config: InferenceConfig, fingerprint: str, split: str
) -> list[str]:
    """Describe how an evaluation with the tags `recorded` differs from the requested one; empty if
    it does not. It may have more metrics."""
    recorded_protocol, protocol = recorded.get("protocol"), protocol_tag(config)
    if not recorded_protocol:
        return ["its settings were not recorded"]
    requested = {"data": fingerprint, "split": split}
    differences = [
        f"{key} {recorded.get(key, '')[:12] or 'unknown'}, not {value[:12]}"
        for key, value in requested.items()
        if recorded.get(key) != value
    ]
    if recorded_protocol == protocol:
        return differences
    recorded_settings, settings = json.loads(recorded_protocol), json.loads(protocol)
    computed = recorded_settings.get("metrics", [])
    differences += [
        f"metric {metric['key']} is missing or has other settings"
        for metric in settings.pop("metrics", [])
        if metric not in computed
    ]
    differences += [
        f"{key} {recorded_settings.get(key, 'unknown')}, not {value}"
        for key, value in settings.items()
        if key not in recorded_settings or recorded_settings[key] != value
    ]
    return differences


def log_scores(
    store: TrackingStore,
    model: "TrainedModel",
    name: str,
    scores: "Scores",
    dataset: "PreparedDataset",
    split: str,
    config: EvaluationConfig,
) -> None:
    """Record scores and per-image counts with the model's run, under `eval/NAME/`."""
    assert model.run_id is not None, "the model belongs to a run"
    tags = {
        "protocol": protocol_tag(config),
        "checkpoint": CHECKPOINTS[model.checkpoint],
        "data": dataset.manifest.fingerprint,
        "split": split,
        "code": code_version(
            modules_of(model.experiment, model.imports), model.experiment.libraries
        ),
    }
    with tempfile.TemporaryDirectory(prefix="evaluation-") as directory:
        samples, files = dataset.split(split), Path(directory)
        names = model.class_names
        assert scores.images is not None, "the images were counted"
        path = files / "counts.arrow"
        write_counts(path, scores.images, samples.identifiers, names, samples.groups)
        configs = config.metric_configs
        write_statistics(files, scores.images, scores.measured, configs, samples.identifiers)
        store.log_dataset(model.run_id, dataset, [split])
        log_evaluation(
            store,
            model.run_id,
            name,
            scores.metrics(names),
            tags,
            files,
            DatasetKey.of(dataset),
            of_model=model.checkpoint != "best",
        )
