"""How far the difference between two rows of a table is to be believed."""

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
    """mIoU of a row minus that of another, in points of percent, over the seeds both have.

    interval: 95 %; p: two-sided, of no difference. Both None where no images were resampled.
    deviation: sd over seeds of the paired differences, None with one seed.
    t_test: p of the paired t-test over seeds, None with fewer than five.
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
    """The paired hierarchical bootstrap of `row` minus `base`, by seed: seeds, groups, images.

    row, base: mIoU in percent. row_resampled, base_resampled: of the same draws of images, in
    percent, `(replicates,)` each; no interval where a shared seed lacks them. None without a shared
    seed.

    Groups and images are resampled (see `bootstrap`), the same for both rows and for all seeds,
    because all were scored on the same images. Seeds are too few for that: of three, all have the
    same sign once in four even where there is no difference. Each replicate therefore
    moves its mean over seeds by Student's t with n - 1 degrees of freedom times its standard error,
    which is what resampling comes to with many seeds. With one seed nothing stands for the others.
    """
    seeds = tuple(sorted(row.keys() & base.keys()))
    if not seeds:
        return None
    differences = np.array([row[seed] - base[seed] for seed in seeds])
    count = len(seeds)
    deviation = float(differences.std(ddof=1)) if count > 1 else None
    t_test = None
    if count >= SEEDS_FOR_T_TEST and deviation:
        ours, theirs = ([side[seed] for seed in seeds] for side in (row, base))
        t_test = float(stats.ttest_rel(ours, theirs).pvalue)
    mean = float(differences.mean())
    if not all(seed in side for seed in seeds for side in (row_resampled, base_resampled)):
        return Difference(mean, seeds, deviation, t_test=t_test)
    replicates = replicated_differences(
        np.stack([row_resampled[seed] - base_resampled[seed] for seed in seeds])
    )
    low, high = np.quantile(replicates, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(mean, seeds, deviation, (float(low), float(high)), _p(replicates), t_test)


def replicated_differences(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replicates `(replicates,)` of the mean over seeds, from `(seeds, replicates)` differences
    under resampled images."""
    count, replicates = differences.shape
    means = differences.mean(axis=0)
    if count == 1:
        return means
    errors = differences.std(axis=0, ddof=1) / math.sqrt(count)
    draws = keyed_generator("seeds", count).standard_t(count - 1, replicates)
    return np.asarray(means + draws * errors)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p values corrected for being several (Holm, 1979): the smallest times their number, the next
    times one less, never smaller than the one before. None is no comparison and stays."""
    present = sorted((value, index) for index, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    highest = 0.0
    for rank, (value, index) in enumerate(present):
        highest = max(highest, min(1.0, value * (len(present) - rank)))
        corrected[index] = highest
    return corrected


def _p(replicates: NDArray[np.float64]) -> float:
    """Twice the smaller share of replicates on one side of 0, the estimate counted as one more."""
    total = len(replicates) + 1
    below = (int((replicates <= 0).sum()) + 1) / total
    above = (int((replicates >= 0).sum()) + 1) / total
    return min(1.0, 2 * min(below, above))
