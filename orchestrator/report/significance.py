"""Confidence intervals and p values of the difference between two rows of a table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from orchestrator.report.bootstrap import keyed_generator

LEVEL = 0.95
SEEDS_FOR_T_TEST = 5


@dataclass(frozen=True)
class Difference:
    """mIoU of one row minus that of another, in percentage points, over their shared seeds.

    mean: over the shared seeds.
    deviation: standard deviation over seeds of the paired differences; None with one seed.
    interval: 95 % confidence interval; None without resampled images.
    p: two-sided p value of no difference; None without resampled images.
    t_test: p value of the paired t-test over seeds; None with fewer than five seeds.
    """

    mean: float
    seeds: tuple[int, ...]
    deviation: float | None
    interval: tuple[float, float] | None = None
    p: float | None = None
    t_test: float | None = None


def compare(
    row: Mapping[int, float],
    base: Mapping[int, float],
    row_resampled: Mapping[int, NDArray[np.float64]],
    base_resampled: Mapping[int, NDArray[np.float64]],
) -> Difference | None:
    """Return the difference `row` minus `base` with its paired hierarchical bootstrap over seeds,
    groups and images; None without a shared seed.

    row, base: mIoU in percent, by seed.
    row_resampled, base_resampled: mIoU in percent under the same draws of images, `(replicates,)`
        by seed. There is no interval if a shared seed lacks them.

    Groups and images are resampled (see `bootstrap`) with the same draws for both rows and all
    seeds, because all were scored on the same images. Seeds are too few to be resampled: the
    differences of three seeds all have the same sign in one of four studies even if there is no
    true difference. Instead, the mean over seeds of each replicate is shifted by its standard error
    times a draw from Student's t with n - 1 degrees of freedom, which resampling converges to with
    many seeds. With one seed, the interval leaves out the variation between seeds.
    """
    seeds = tuple(sorted(row.keys() & base.keys()))
    if not seeds:
        return None
    differences = np.array([row[seed] - base[seed] for seed in seeds])
    count = len(seeds)
    deviation = float(differences.std(ddof=1)) if count > 1 else None
    t_test = None
    if count >= SEEDS_FOR_T_TEST and deviation:
        row_values, base_values = ([side[seed] for seed in seeds] for side in (row, base))
        t_test = float(stats.ttest_rel(row_values, base_values).pvalue)
    mean = float(differences.mean())
    if not all(seed in side for seed in seeds for side in (row_resampled, base_resampled)):
        return Difference(mean, seeds, deviation, t_test=t_test)
    replicates = replicated_differences(
        np.stack([row_resampled[seed] - base_resampled[seed] for seed in seeds])
    )
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(mean, seeds, deviation, (float(low), float(high)), _p(replicates), t_test)


def replicated_differences(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return replicates `(replicates,)` of the mean over seeds, from the differences
    `(seeds, replicates)` under resampled images."""
    count, replicates = differences.shape
    means = differences.mean(axis=0)
    if count == 1:
        return means
    errors = differences.std(axis=0, ddof=1) / math.sqrt(count)
    draws = keyed_generator("seeds", count).standard_t(count - 1, replicates)
    return np.asarray(means + draws * errors)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Return the p values corrected for multiple comparisons (Holm, 1979): the smallest times their
    number, the next times one less, and so on, never below the previous one. None stays None."""
    present = sorted((value, index) for index, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (value, index) in enumerate(present):
        highest = max(highest, min(1.0, value * (len(present) - rank)))
        corrected[index] = highest
    return corrected


def _p(replicates: NDArray[np.float64]) -> float:
    """Return twice the smaller share of replicates on one side of 0, with one added to both counts
    and to the total."""
    total = len(replicates) + 1
    below = (int((replicates <= 0).sum()) + 1) / total
    above = (int((replicates >= 0).sum()) + 1) / total
    return min(1.0, 2 * min(below, above))
