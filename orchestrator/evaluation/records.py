"""What is recorded of an evaluation of a finished run, and whether it is the one asked for."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from orchestrator.evaluation.trained_model import TrainedModel
from orchestrator.study.identity import code_version
from orchestrator.study.user_code import modules_of
from orchestrator.tracking.store import TrackingStore
from pipelines.data.dataset import PreparedDataset
from pipelines.evaluation.counts import write_counts
from pipelines.evaluation.evaluate import EvaluationConfig
from pipelines.evaluation.inference import InferenceConfig
from pipelines.evaluation.scores import Scores

CHECKPOINTS = {
    "best": "best on validation",
    "last": "last",
    "model": "as the model was saved",
}


def settings(config: InferenceConfig, boundary: int = 0) -> str:
    """How a model was applied, as the ledger's tag says it."""
    inference = {key: getattr(config, key) for key in asdict(InferenceConfig())}
    return json.dumps({**inference, "stride": config.step, "boundary": boundary})


def study_config(protocol: InferenceConfig, own: EvaluationConfig) -> EvaluationConfig:
    """How a study's protocol scores a trial that is evaluated as `own` says while it trains."""
    return EvaluationConfig(**asdict(protocol), batch=own.batch, boundary=own.boundary)


def is_current(
    recorded: Mapping[str, str],
    config: InferenceConfig,
    boundary: int,
    fingerprint: str,
    split: str,
) -> bool:
    """Whether an evaluation with the tags `recorded` is the one that is asked for now."""
    return not differences(recorded, config, boundary, fingerprint, split)


def differences(
    recorded: Mapping[str, str],
    config: InferenceConfig,
    boundary: int,
    fingerprint: str,
    split: str,
) -> list[str]:
    """What an evaluation with the tags `recorded` has other than what is asked for now, in words;
    empty where it is the same."""
    applied, asked = recorded.get("protocol"), settings(config, boundary)
    if not applied:
        return ["nothing is recorded of how it was done"]
    wanted = {"data": fingerprint, "split": split}
    found = [
        f"{key} {recorded.get(key, '')[:12] or 'unknown'}, not {value[:12]}"
        for key, value in wanted.items()
        if recorded.get(key) != value
    ]
    if applied == asked:
        return found
    theirs = json.loads(applied)
    found += [
        f"{key} {theirs.get(key, 'unknown')}, not {value}"
        for key, value in json.loads(asked).items()
        if key not in theirs or theirs[key] != value
    ]
    return found or ["other settings"]


def log_scores(
    store: TrackingStore,
    run_id: str,
    name: str,
    scores: Scores,
    model: TrainedModel,
    dataset: PreparedDataset,
    split: str,
    config: EvaluationConfig,
    imports: Sequence[str],
) -> None:
    """Record figures and counts by image with a run, under `eval/NAME/`."""
    tags = {
        "protocol": settings(config, config.boundary),
        "checkpoint": CHECKPOINTS[model.checkpoint],
        "data": dataset.manifest.fingerprint,
        "split": split,
        "code": code_version(modules_of(model.experiment, imports)),
    }
    with tempfile.TemporaryDirectory(prefix="evaluation-") as directory:
        samples, files = dataset.split(split), Path(directory)
        names = model.class_names
        assert scores.images is not None, "the images were counted"
        path = files / "counts.arrow"
        write_counts(path, scores.images, samples.identifiers, names, samples.groups)
        store.log_evaluation(run_id, name, scores.metrics(names), tags, files)
