"""The scores that the tracking store holds of one checkpoint of a run."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from orchestrator.evaluation.records import CHECKPOINTS
from orchestrator.evaluation.trained_model import TrainedModel
from orchestrator.tracking.runs import TrialRun
from orchestrator.tracking.store import TrackingError, TrackingStore
from pipelines.data.manifest import metric_name
from pipelines.evaluation.config import InferenceConfig
from pipelines.evaluation.counts import read_counts

# Of the validation: not scores of the last checkpoint.
_OTHERS = ("best_miou", "seconds")


@dataclass(frozen=True)
class RecordedScores:
    """The scores of a checkpoint on one split.

    name: of a later evaluation; empty for the validation during training. fingerprint: of the data
    set. protocol: name of the way in which the model was applied. images: how many were scored;
    None if that was not recorded. metrics: `miou`, `iou/CLASS` and so on, as the run names them.
    """

    name: str
    fingerprint: str
    split: str
    protocol: str
    images: int | None
    metrics: Mapping[str, float]

    def iou(self, class_name: str) -> float | None:
        """Return the IoU of a class in [0, 1]; None if it was not recorded."""
        return self.metrics.get(metric_name(f"iou/{class_name}"))

    @property
    def overall(self) -> dict[str, float]:
        """Return the metrics that are not of one class."""
        return {key: value for key, value in self.metrics.items() if "/" not in key}


def recorded_scores(
    model: TrainedModel, run: TrialRun, store: TrackingStore
) -> list[RecordedScores]:
    """Return all scores of the model's checkpoint that its run holds, validation first."""
    scores = []
    split = model.experiment.data.validation_split
    metrics = _below("val/", run.metrics)
    if model.checkpoint == "best":
        best = metrics.get("best_miou")
        metrics = {} if best is None else {"miou": best}
    metrics = {key: value for key, value in metrics.items() if key not in _OTHERS}
    if metrics and split is not None:
        protocol = model.experiment.evaluation.protocol
        images = _images(store, run.run_id, "counts.arrow")
        scores.append(RecordedScores("", run.data, split, protocol, images, metrics))
    for name, settings in sorted(run.evaluations.items()):
        metrics = _below(metric_name(f"eval/{name}/"), run.metrics)
        if metrics and settings.get("checkpoint") == CHECKPOINTS[model.checkpoint]:
            images = _images(store, run.run_id, f"eval/{name}/counts.arrow")
            data, split = settings.get("data", ""), settings.get("split", "")
            protocol = _protocol(settings["protocol"])
            scores.append(RecordedScores(name, data, split, protocol, images, metrics))
    return scores


def _below(prefix: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {
        key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)
    }


def _protocol(recorded: str) -> str:
    """Return the name of a protocol from its tag."""
    settings = json.loads(recorded)
    names = [field.name for field in fields(InferenceConfig)]
    values = {name: settings[name] for name in names if name in settings}
    lists = {name: tuple(each) for name, each in values.items() if isinstance(each, list)}
    return InferenceConfig(**{**values, **lists}).protocol


def _images(store: TrackingStore, run_id: str, file: str) -> int | None:
    with tempfile.TemporaryDirectory(prefix="counts-") as directory:
        try:
            return len(read_counts(store.download_file(run_id, file, Path(directory))).identifiers)
        except (TrackingError, ValueError):
            return None
