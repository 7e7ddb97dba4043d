"""Confidence intervals and p values of the difference between two rows of a table.

The mean over seeds of the paired differences varies for two reasons: other seeds (see
`seed_spread`) and other validation images (see `bootstrap`). With folds, the first includes the
second. The mean is distributed as the sum of both parts: a Student's t scaled by the standard error
over seeds, and the bootstrap replicates of the mean. The distribution is evaluated as a mixture of
t distributions centered on the replicates, without random draws, so p values have neither a
smallest possible value nor Monte Carlo error from seeds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from orchestrator.report.statistics.bootstrap import Sampling
from orchestrator.report.statistics.seed_spread import SeedError, variance_factor
from orchestrator.study.repetition import Repetition, fold_of

# A difference is significant if its adjusted p value is below this.
ALPHA = 0.05
# Confidence level of intervals.
LEVEL = 1 - ALPHA
POWER = 0.8
# Number of replicates in the mixture: quantiles of all replicates, which change nothing visible.
_CENTERS = 2000
# Deviations beyond this number of standard errors are stretched as much as those at it.
_STRETCHED = 4.0

Method = Literal["pooled", "own spread", "images only"]


@dataclass(frozen=True)
class Difference:
    """mIoU of one row minus that of the row `compared_to`, in percentage points, over shared seeds
    (and folds).

    compared_to: variant that the row is compared to, in the same grid cell.
    by_seed: the paired differences, over the classes that occur in the labels; by seed and fold
        if there are folds.
    method: how the variation over seeds is estimated: `pooled` over the rows of the grid cell,
        `own spread` of the compared rows, or `images only` with one shared seed or fold. None
        without per-image counts, which leaves out intervals and p values.
    spread: standard deviation over seeds (or folds) of a paired difference according to `method`.
    interval: 95 % confidence interval over seeds (or folds) and images; None with one seed.
    image_interval: 95 % interval over images only, with one seed; it says nothing about another
        training of the same rows.
    p: two-sided p value of no difference; None with one seed (or fold), and with two unless pooled.
    p_adjusted: `p` adjusted by Holm's method for all `comparisons` of the study.
    standard_error, freedom: of `mean`, over seeds and images; None without p.
    """

    compared_to: str
    mean: float
    by_seed: Mapping[Repetition, float]
    method: Method | None = None
    spread: float | None = None
    interval: tuple[float, float] | None = None
    image_interval: tuple[float, float] | None = None
    p: float | None = None
    p_adjusted: float | None = None
    comparisons: int = 1
    standard_error: float | None = None
    freedom: float | None = None

    @property
    def seeds(self) -> tuple[Repetition, ...]:
        """The shared seeds, or seeds and folds."""
        return tuple(self.by_seed)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds of the paired differences alone; None with one seed."""
        values = list(self.by_seed.values())
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    @property
    def significant(self) -> bool:
        """Whether the adjusted p value is below 5 %."""
        return self.p_adjusted is not None and self.p_adjusted < ALPHA

    @property
    def detectable(self) -> float | None:
        """The smallest true difference that is detected with a power of 80 % at the level of 5 %
        divided by the number of comparisons (Bloom, 1995); None without p."""
        if self.standard_error is None or self.freedom is None:
            return None
        tails = ALPHA / 2 / self.comparisons, 1 - POWER
        return self.standard_error * sum(-float(special.stdtrit(self.freedom, t)) for t in tails)


@dataclass(frozen=True)
class Distribution:
    """Where the true difference may be: a mixture of t distributions with `freedom` degrees of
    freedom, scaled by `error` and centered on each of `centers`; the centers alone if `error` is
    0."""

    centers: NDArray[np.float64]
    error: float
    freedom: float

    def below(self, value: float) -> float:
        """Return the probability of a difference below `value`."""
        if self.error == 0:
            return float((self.centers <= value).mean())
        return float(special.stdtr(self.freedom, (value - self.centers) / self.error).mean())

    def above(self, value: float) -> float:
        """Return the probability of a difference above `value`, exact where it is tiny."""
        if self.error == 0:
            return float((self.centers >= value).mean())
        return float(special.stdtr(self.freedom, (self.centers - value) / self.error).mean())

    @property
    def interval(self) -> tuple[float, float]:
        """The central 95 % interval."""
        tail = ALPHA / 2
        if self.error == 0:
            low, high = np.quantile(self.centers, [tail, 1 - tail])
            return float(low), float(high)
        reach = -float(special.stdtrit(self.freedom, tail)) * self.error
        first, last = float(self.centers.min()), float(self.centers.max())
        return (
            _root(lambda x: self.below(x) - tail, first - reach, last - reach),
            _root(lambda x: tail - self.above(x), first + reach, last + reach),
        )

    @property
    def p(self) -> float:
        """Two-sided p value of no difference."""
        return min(1.0, 2 * min(self.below(0.0), self.above(0.0)))


@dataclass(frozen=True)
class Pairs:
    """Two rows over their shared seeds, or seeds and folds.

    by_seed: paired differences in points of at least one seed.
    replicates: the paired differences under resampled images, `(seeds, replicates)`; None if some
        trial lacks per-image counts. sampling: how images were resampled.
    error: standard error of the mean over the seeds or folds; None with one.
    folds: number of folds of the study; None without folds.
    separate_images: whether the folds are scored on different images. Their spread then includes
        the choice of images, which must not be counted again.
    """

    by_seed: Mapping[Repetition, float]
    replicates: NDArray[np.float64] | None
    sampling: Sampling | None
    error: SeedError | None
    folds: int | None = None
    separate_images: bool = False

    @property
    def observations(self) -> int:
        """The number of folds with a difference; of seeds without folds."""
        return len({fold_of(each) if self.folds else each for each in self.by_seed})

    @property
    def spread(self) -> float | None:
        """Standard deviation of a difference over folds, or seeds without folds."""
        if self.error is None:
            return None
        factor = variance_factor(self.observations, self.folds)
        return self.error.standard_error / math.sqrt(factor)

    @property
    def mean(self) -> float:
        """The mean difference over the seeds."""
        return float(np.mean(list(self.by_seed.values())))

    @property
    def has_images(self) -> bool:
        """Whether the variation over images is known."""
        if self.replicates is None or self.sampling is None:
            return False
        return self.sampling.freedom > 0 or (self.separate_images and self.error is not None)

    @property
    def tested(self) -> bool:
        """Whether there is a p value. The spread of two seeds or folds alone has one degree of
        freedom, which is too few for a test."""
        enough = self.error is not None and (self.observations > 2 or self.error.method == "pooled")
        return self.has_images and enough

    def centers(self) -> NDArray[np.float64]:
        """Return the mean difference under other images, `(replicates,)`."""
        assert self.replicates is not None
        assert self.sampling is not None
        if self.error is not None and self.separate_images:
            return np.full(self.replicates.shape[1], self.mean)
        return image_distribution(self.mean, self.replicates, self.sampling)


def compare(compared_to: str, pairs: Pairs) -> Difference:
    """Return the difference with its interval and p value, not adjusted for other comparisons.
    compared_to: variant that is subtracted."""
    difference = Difference(compared_to, pairs.mean, dict(pairs.by_seed))
    if not pairs.has_images:
        return difference
    assert pairs.sampling is not None
    centers = pairs.centers()
    if pairs.error is None:
        interval = Distribution(centers, 0.0, 1).interval
        return replace(difference, method="images only", image_interval=interval)
    difference = replace(difference, method=pairs.error.method, spread=pairs.spread)
    return _tested(difference, centers, pairs.error, pairs.sampling.freedom, pairs.tested)


def compare_means(compared_to: str, cells: Sequence[Pairs], shared_trainings: bool) -> Difference:
    """Return the mean difference over cells of the grid, all of which have a p value. Replicates of
    the same images are paired.

    shared_trainings: whether a seed gives the same training in several cells, which differ in how
    it is scored. Otherwise, seeds of different cells are different trainings, and their errors are
    independent. Errors of shared trainings, and of folds, whose images are the same in all cells,
    may have the same sign and are added, which is an upper bound, with the least of the degrees of
    freedom.
    """
    errors = [pairs.error for pairs in cells if pairs.error is not None]
    count = len(cells)
    dependent = shared_trainings or any(pairs.separate_images for pairs in cells)
    add = sum if dependent else _root_of_squares
    freedom = _joint_freedom(*((error.standard_error, error.freedom) for error in errors))
    error = SeedError(
        add([error.standard_error for error in errors]) / count,
        min(error.freedom for error in errors) if dependent else freedom,
        "pooled" if all(error.method == "pooled" for error in errors) else "own spread",
    )
    shared = [seed for seed in cells[0].by_seed if all(seed in pairs.by_seed for pairs in cells)]
    difference = Difference(
        compared_to,
        float(np.mean([pairs.mean for pairs in cells])),
        {seed: float(np.mean([pairs.by_seed[seed] for pairs in cells])) for seed in shared},
        error.method,
    )
    centers = np.mean([pairs.centers() for pairs in cells], axis=0)
    image_freedom = min(pairs.sampling.freedom for pairs in cells if pairs.sampling is not None)
    return _tested(difference, centers, error, image_freedom, True)


def _tested(
    difference: Difference,
    centers: NDArray[np.float64],
    error: SeedError,
    image_freedom: int,
    with_p: bool,
) -> Difference:
    """Return the difference with its interval and, on request, its p value."""
    distribution = Distribution(_thinned(centers), error.standard_error, error.freedom)
    difference = replace(difference, interval=distribution.interval)
    if not with_p:
        return difference
    image_error = float(centers.std())
    return replace(
        difference,
        p=distribution.p,
        standard_error=math.hypot(error.standard_error, image_error),
        freedom=_joint_freedom((error.standard_error, error.freedom), (image_error, image_freedom)),
    )


def image_distribution(
    mean: float, replicates: NDArray[np.float64], sampling: Sampling
) -> NDArray[np.float64]:
    """Return `mean` plus the deviations due to the choice of images, `(replicates,)`.

    replicates: differences under resampled images, `(seeds, replicates)`.

    Three corrections of the mean over seeds of the replicates:
    - Variation over images that differs by seed also varies the seeds' own differences, where the
      standard error over seeds counts it. It is estimated from the replicates' deviations from
      their mean over seeds, and removed.
    - A bootstrap over n units underestimates the variance by (n - 1) / n.
    - Deviations are stretched from the quantiles of a normal distribution to those of Student's t
      (Hesterberg, 2015: "expanded percentile interval"), which matters with few units.
    """
    count = len(replicates)
    means = replicates.mean(axis=0)
    deviations = means - means.mean()
    variance = float(deviations.var())
    if variance == 0:
        return np.full(len(means), mean)
    shared = variance
    if count > 1:
        by_seed = float((replicates - means).var(axis=1).sum()) / (count - 1) / count
        shared = max(0.0, variance - by_seed)
    scores = np.abs(deviations) / math.sqrt(variance)
    capped = np.clip(scores, 1e-3, _STRETCHED)
    stretch = -special.stdtrit(sampling.freedom, special.ndtr(-capped)) / capped
    scale = math.sqrt(shared / variance) * sampling.inflation
    return np.asarray(mean + scale * stretch * deviations)


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


def _thinned(centers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return at most about `_CENTERS` of the sorted values, evenly spaced by rank."""
    step = max(1, len(centers) // _CENTERS)
    return np.sort(centers)[step // 2 :: step]


def _root_of_squares(values: Sequence[float]) -> float:
    return math.hypot(*values)


def _joint_freedom(*parts: tuple[float, float]) -> float:
    """Return the degrees of freedom of a sum (Welch-Satterthwaite). parts: standard errors with
    their degrees of freedom."""
    variance = sum(error**2 for error, _ in parts)
    if variance == 0:
        return min(freedom for _, freedom in parts)
    return variance**2 / sum(error**4 / freedom for error, freedom in parts if error)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return the root of an increasing function between `low` and `high`."""
    if high - low <= 0:
        return low
    margin = 1e-9 * (abs(low) + abs(high) + high - low)
    return float(optimize.brentq(function, low - margin, high + margin))
