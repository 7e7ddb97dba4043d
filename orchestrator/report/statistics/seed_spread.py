"""How much mIoU varies over seeds: pooled over the rows of a grid cell.

Two or three seeds say little about the spread of one row, but the rows of a grid cell together say
much more. Rows share their seeds (order of images, augmentation, initial values), so mIoU is
modeled as row + seed + residual (randomized blocks; incomplete ones if trials are missing). The
mean square of the residuals has (rows - 1)(seeds - 1) degrees of freedom instead of seeds - 1.

This assumes that rows vary about equally over seeds. The constants below were chosen in simulated
studies of seven rows with three seeds (`test_significance_simulated.py` of the tests): the
family-wise error stays below 5 % if the row compared to scatters twice as much as the others.

With folds, a fold takes the place of a seed: the mean over seeds of each fold is one observation.
Folds are not independent, because each image is used in all of them. So the variance of the
mean over J of K folds is not the variance over folds times 1/J, but times 1/J + 1/(K - 1), the
second term being the ratio of scored to training images (Nadeau and Bengio, "Inference for the
Generalization Error", 2003, section 3.2: the corrected resampled t-test). Folds have different
validation images, so their spread includes the choice of these.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import special

from orchestrator.study.repetition import Repetition, fold_of

# Degrees of freedom, at most, of the pooled variance as a prior of the variance of the row that
# others are compared to.
PRIOR = 4.0
# Differences of rows whose spread is above that of the others at this p value have their own
# variance; such a row still counts in the pooled one of the others.
DIFFERS = 0.002

# A score of each training of a row; of each fold, if the mean over seeds is taken.
Scores = Mapping[Repetition, float]


@dataclass(frozen=True)
class Residuals:
    """What the model row + seed leaves of mIoU: the sum of squares, and its degrees of freedom."""

    squares: float
    freedom: int

    @property
    def mean_square(self) -> float:
        """The variance over seeds of one row; 0 without degrees of freedom."""
        return self.squares / self.freedom if self.freedom else 0.0

    def minus(self, other: "Residuals") -> "Residuals":
        """Return the part that rows add which `other` leaves out."""
        return Residuals(max(0.0, self.squares - other.squares), self.freedom - other.freedom)


def residuals(rows: Sequence[Scores]) -> Residuals:
    """Fit mIoU by seed of each row as row + seed (least squares); rows may lack seeds."""
    values = [(index, seed, value) for index, row in enumerate(rows) for seed, value in row.items()]
    seeds = sorted({seed for _, seed, _ in values})
    design = np.zeros((len(values), len(rows) + len(seeds)))
    for line, (index, seed, _) in enumerate(values):
        design[line, index] = design[line, len(rows) + seeds.index(seed)] = 1
    observed = np.array([value for _, _, value in values])
    # A common offset changes nothing and costs precision.
    observed = observed - observed.mean() if len(values) else observed
    solution, _, rank, _ = np.linalg.lstsq(design, observed, rcond=None)
    left = observed - design @ solution
    return Residuals(float(left @ left), len(values) - int(rank))


@dataclass(frozen=True)
class SeedError:
    """Standard error over seeds of a mean difference in points, with its degrees of freedom.

    method: whether the spread is `pooled` over the rows of the grid cell, or the compared rows'
        `own spread`.
    """

    standard_error: float
    freedom: float
    method: Literal["pooled", "own spread"]


def seed_error(
    row: Scores, compared_to: Scores, pooled_rows: Sequence[Scores], differences: Sequence[float]
) -> SeedError | None:
    """Return the standard error of the mean of the paired `differences` of `row` and
    `compared_to`; None for fewer than two.

    row, compared_to, pooled_rows: mIoU by seed of two rows, and of the others of their grid cell
        that may be pooled with them.

    The variance of a difference is that of `row` plus that of `compared_to`. That of `row` is the
    pooled one. An error in that of `compared_to` would affect all comparisons at once, so it is a
    weighted mean of the pooled variance and the row's own, with at most `PRIOR` degrees of freedom
    for the pooled one (Smyth, 2004, with a fixed prior). If the spread of either row is above that
    of the other rows by more than chance, the differences' own variance is used instead.
    """
    count = len(differences)
    if count < 2:
        return None
    rows = [row, compared_to, *pooled_rows]
    pooled = residuals(rows)
    own = float(np.var(differences, ddof=1))
    if not pooled_rows or not pooled.freedom or any(_differs(rows, index) for index in (0, 1)):
        return SeedError(math.sqrt(own / count), count - 1, "own spread")
    rest = residuals([row, *pooled_rows])
    alone = pooled.minus(rest)
    # The mean square of one row against the mean of the others contains their variance, too.
    scale = len(rows) / (len(rows) - 1)
    own_variance = max(0.0, scale * alone.mean_square - (scale - 1) * rest.mean_square)
    prior = min(PRIOR, rest.freedom)
    freedom = prior + alone.freedom
    moderated = (prior * pooled.mean_square + alone.freedom * own_variance) / freedom
    variance = pooled.mean_square + moderated
    return SeedError(math.sqrt(variance / count), freedom, "pooled")


def fold_error(
    row: Scores, compared_to: Scores, pooled_rows: Sequence[Scores], differences: Scores, folds: int
) -> SeedError | None:
    """Return the standard error of the mean of the paired `differences` over folds and seeds; None
    for fewer than two folds. folds: number of folds that the split is divided into.

    row, compared_to, pooled_rows: as in `seed_error`, by seed and fold.
    """
    by_fold = fold_means(differences)
    rows = [fold_means(each) for each in (row, compared_to, *pooled_rows)]
    error = seed_error(rows[0], rows[1], rows[2:], list(by_fold.values()))
    if error is None:
        return None
    scale = len(by_fold) * variance_factor(len(by_fold), folds)
    return replace(error, standard_error=math.sqrt(scale) * error.standard_error)


def variance_factor(scored: int, folds: int | None) -> float:
    """Return the variance of a mean over `scored` folds, or seeds if `folds` is None, divided by
    the variance of one of them. folds: number of folds that the split is divided into."""
    return 1 / scored + (0.0 if folds is None else 1 / (folds - 1))


def fold_means(scores: Scores) -> dict[Repetition, float]:
    """Return the mean over seeds of each fold, by fold."""
    by_fold: dict[int, list[float]] = {}
    for repetition, value in scores.items():
        fold = fold_of(repetition)
        assert fold is not None, "the study has folds"
        by_fold.setdefault(fold, []).append(value)
    return {fold: float(np.mean(by_fold[fold])) for fold in sorted(by_fold)}


def _differs(rows: Sequence[Scores], index: int) -> bool:
    """Whether a row varies more over seeds than the others, by an F test of the mean squares."""
    rest = residuals([row for other, row in enumerate(rows) if other != index])
    alone = residuals(rows).minus(rest)
    if not alone.freedom or not rest.freedom:
        return False
    if rest.squares == 0:
        return alone.squares > 0
    ratio = alone.mean_square / rest.mean_square
    return float(special.fdtrc(alone.freedom, rest.freedom, ratio)) < DIFFERS
