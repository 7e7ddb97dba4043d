"""The scores of a checkpoint in the tracking store."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from orchestrator.evaluation.recorded_scores import RecordedScores, recorded_scores
from orchestrator.evaluation.records import protocol_tag
from orchestrator.evaluation.trained_model import TrainedModel
from orchestrator.tracking.runs import TrialRun
from orchestrator.tracking.store import TrackingError, TrackingStore
from pipelines.data.manifest import ClassInfo
from pipelines.evaluation.config import InferenceConfig
from pipelines.evaluation.counts import ImageCounts, write_counts
from pipelines.model_directory import ClassList
from pipelines.training.experiment import Experiment

CLASSES = (ClassInfo("road", (0, 0, 0)), ClassInfo("traffic light", (255, 0, 0)))
MODEL = TrainedModel(
    "runs:/1/model",
    "1",
    "last",
    Experiment(),
    ClassList("streets", "f" * 64, 255, CLASSES),
    torch.nn.Conv2d(3, 2, 1),
)
VALIDATION = {"miou": 0.5, "pixel_accuracy": 0.9, "iou/road": 0.75, "iou/traffic-light": 0.25}
FLIPPED = {"miou": 0.625, "iou/road": 0.875}
FLIP = InferenceConfig(scales=(0.5, 1.0), flip=True)
RUN = TrialRun(
    run_id="1",
    study="study",
    identity="",
    status="FINISHED",
    code="",
    epoch=3,
    metrics={
        "epoch": 3,
        "val/best_miou": 0.55,
        "val/seconds": 9,
        **{f"val/{key}": value for key, value in VALIDATION.items()},
        **{f"eval/flip/{key}": value for key, value in FLIPPED.items()},
        "eval/flip-best/miou": 0.7,
    },
    data="f" * 64,
    evaluations={
        "flip": {
            "protocol": protocol_tag(FLIP),
            "checkpoint": "last",
            "data": "e" * 64,
            "split": "test",
        },
        "flip-best": {"protocol": json.dumps({}), "checkpoint": "best on validation"},
    },
)


class _Store:
    """Holds the counts of three validation images."""

    def download_file(self, run_id: str, path: str, directory: Path) -> Path:
        if (run_id, path) != ("1", "counts.arrow"):
            raise TrackingError(f"{path}: not in MLflow")
        counts = ImageCounts(torch.arange(3), torch.ones(3, 2, 3, dtype=torch.int64))
        names = [each.name for each in CLASSES]
        write_counts(directory / path, counts, ["a", "b", "c"], names, [None] * 3)
        return directory / path


def scores_of(checkpoint: str, **changes: Any) -> list[RecordedScores]:
    model = replace(MODEL, checkpoint=checkpoint, **changes)
    return recorded_scores(model, RUN, cast(TrackingStore, _Store()))


def test_last_checkpoint_has_validation_and_evaluations() -> None:
    validation, flipped = scores_of("last")
    assert validation == RecordedScores("", "f" * 64, "val", "whole", 3, VALIDATION)
    assert validation.overall == {"miou": 0.5, "pixel_accuracy": 0.9}
    assert [validation.iou(name) for name in ("road", "traffic light")] == [0.75, 0.25]
    protocol = "whole_scales-0.5-1_flip"
    assert flipped == RecordedScores("flip", "e" * 64, "test", protocol, None, FLIPPED)
    assert flipped.iou("traffic light") is None


def test_best_checkpoint_has_its_own_scores() -> None:
    validation, flipped = scores_of("best")
    assert (validation.metrics, flipped.metrics) == ({"miou": 0.55}, {"miou": 0.7})


@pytest.mark.parametrize("split", [None, "val"])
def test_training_without_validation_has_no_score_of_it(split: str | None) -> None:
    data = replace(MODEL.experiment.data, validation_split=split)
    scores = scores_of("last", experiment=replace(MODEL.experiment, data=data))
    assert [each.name for each in scores] == ([] if split is None else [""]) + ["flip"]
