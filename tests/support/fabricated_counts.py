"""Generated counts per image and class, and a reference implementation of mIoU."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from orchestrator.report.statistics.bootstrap import REPLICATES, count_metric, resampled_scores
from pipelines.evaluation.counts import Counts

CLASSES = ("road", "sky", "car")


def counts_of(values: NDArray[np.int64], groups: tuple[str | None, ...] | None = None) -> Counts:
    """Return Counts from values (images, classes, 3)."""
    names = tuple(f"image {index}" for index in range(len(values)))
    return Counts(names, groups or ("one",) * len(values), CLASSES[: values.shape[1]], values)


def random_counts(seed: int, groups: tuple[str | None, ...]) -> Counts:
    """Return random counts with different scores per group and one rare class."""
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 60, (len(groups), 3, 3))
    values[:, 2] *= rng.random((len(groups), 1)) < 0.4
    levels = {name: 1 + index for index, name in enumerate(dict.fromkeys(groups))}
    values[:, :2, 0] *= np.array([levels[name] for name in groups])[:, None]
    return counts_of(values, groups)


def naive_miou(counts: NDArray[np.int64], images: list[int]) -> float:
    """Return the mIoU of the images by its definition, with plain loops."""
    values = []
    for index in range(counts.shape[1]):
        true, union = 0, 0
        for image in images:
            true += int(counts[image, index, 0])
            union += int(counts[image, index].sum())
        if union:
            values.append(true / union)
    return sum(values) / len(values)


def resampled_miou(
    counts: Sequence[Counts], replicates: int = REPLICATES
) -> list[NDArray[np.float64]]:
    """Return the mIoU in [0, 1] of each replicate, `(replicates,)` float64 for each of `counts`."""
    measured = [[count_metric(each, "miou")] for each in counts]
    return [scores["miou"] for scores in resampled_scores(counts, measured, replicates)]
