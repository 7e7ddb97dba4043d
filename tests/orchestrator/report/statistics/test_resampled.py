"""Counts and statistics of scores, and which of them do not belong to a score."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.report.statistics.bootstrap import Sampling, sampling_of
from orchestrator.report.statistics.resampled import CountsReader, ScoreRef
from pipelines.evaluation.config import MetricConfig
from pipelines.evaluation.counts import ImageCounts, write_counts
from pipelines.evaluation.measuring import build_metrics
from pipelines.evaluation.metrics import Measured
from pipelines.evaluation.statistics_file import write_statistics
from tests.support.fabricated_counts import CLASSES, counts_of, naive_miou, random_counts

IMAGES = 9
COUNTS = random_counts(0, (None,) * IMAGES).values
MIOU = naive_miou(COUNTS, list(range(IMAGES)))


@dataclass(frozen=True)
class Folder:
    """The artifacts of any run."""

    path: Path

    def download_file(self, run_id: str, path: str, directory: Path) -> Path:
        return self.path / path


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    names = [f"image {index}" for index in range(IMAGES)]
    images = ImageCounts(torch.arange(IMAGES), torch.from_numpy(COUNTS))
    write_counts(tmp_path / "counts.arrow", images, names, CLASSES, [None] * IMAGES)
    return Folder(tmp_path)


def write_calibration(folder: Folder, names: Sequence[str]) -> None:
    """Write the statistics of a metric that the counts do not determine."""
    configs = [MetricConfig("calibration_error")]
    (built,) = build_metrics(configs, len(CLASSES))
    sums = np.random.default_rng(0).random((IMAGES, built.length))
    measured = [Measured(built.key, built.metric, sums)]
    images = ImageCounts(torch.arange(IMAGES), torch.from_numpy(COUNTS))
    write_statistics(folder.path, images, measured, configs, names)


@pytest.mark.parametrize(("shift", "belong"), [(0.0, True), (3e-7, True), (1e-5, False)])
def test_counts_belong_to_a_score_that_is_equal_up_to_rounding(
    folder: Folder, shift: float, belong: bool
) -> None:
    score = ScoreRef("run", "counts.arrow", MIOU + shift)
    assert bool(CountsReader(folder).read([score])) == belong


def test_statistics_of_other_images_are_left_out(folder: Folder) -> None:
    score = ScoreRef("run", "counts.arrow", MIOU)
    write_calibration(folder, [f"image {index}" for index in range(IMAGES)])
    (counts,) = CountsReader(folder, ("calibration_error",)).read([score]).values()
    assert counts.metrics["calibration_error"].resampled is not None
    write_calibration(folder, [f"image {index}" for index in range(1, IMAGES + 1)])
    (counts,) = CountsReader(folder, ("calibration_error",)).read([score]).values()
    assert counts.metrics == {}


def test_unlabeled_images_are_not_drawn() -> None:
    values = COUNTS.copy()
    values[[1, 4]] = 0
    assert sampling_of(counts_of(values, (None,) * IMAGES)) == Sampling("images", 7, 6)
