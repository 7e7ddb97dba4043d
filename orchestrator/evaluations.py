"""What is recorded of an evaluation of a finished run, and whether it is the one asked for."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from orchestrator.extensions import modules_of
from orchestrator.identity import code_version
from orchestrator.ledger import Ledger
from orchestrator.trained_model import TrainedModel
from pipelines.dataset import PreparedDataset
from pipelines.evaluation import EvaluationConfig
from pipelines.inference import InferenceConfig
from pipelines.scores import Scores, write_counts

CHECKPOINTS = {
    "best": "best on validation",
    "last": "last",
    "model": "as the model was saved",
}


def settings(config: InferenceConfig, boundary: int = 0) -> str:
    """How a model was applied, as the ledger's tag says it."""
    inference = {key: getattr(config, key) for key in asdict(InferenceConfig())}
    return json.dumps({**inference, "stride": config.step, "boundary": boundary})


def is_current(
    recorded: Mapping[str, str],
    config: InferenceConfig,
    boundary: int,
    fingerprint: str,
    split: str,
) -> bool:
    """Whether an evaluation with the tags `recorded` is the one that is asked for now."""
    wanted = {"protocol": settings(config, boundary), "data": fingerprint, "split": split}
    return all(recorded.get(key) == value for key, value in wanted.items())


def log_scores(
    ledger: Ledger,
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
        write_counts(files / "counts.arrow", scores, samples.identifiers, names, samples.groups)
        ledger.log_evaluation(run_id, name, scores.metrics(names), tags, files)
