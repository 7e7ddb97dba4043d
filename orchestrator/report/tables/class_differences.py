"""IoU by class: how each class differs between the rows, with intervals over seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from orchestrator.report.rows.image_differences import by_seed, comparable_rows, shared_seeds
from orchestrator.report.rows.row import Row
from orchestrator.report.statistics.resampled import ResampledCounts
from orchestrator.report.statistics.seed_spread import variance_factor
from orchestrator.report.statistics.significance import ALPHA, LEVEL, holm
from orchestrator.report.tables.cells import EMPTY, signed
from orchestrator.study.repetition import Repetition, fold_of
from orchestrator.study.study import Study

# The largest difference has the full color, but no difference below 5 points of IoU has.
_FULL_COLOR = 5.0


@dataclass(frozen=True)
class ClassDifference:
    """The IoU of one class, and its difference to the row that is compared to.

    iou: mean over seeds in percent; NaN for a class that does not occur. mean: of the differences
    in points; None in the row that is compared to. seeds: the difference of each seed, or of each
    fold with the class. interval: 95 %, over these (Student's t); None with one. significant:
    whether the difference is clear of 0 after Holm's correction over the row's classes.
    """

    name: str
    iou: float
    mean: float | None = None
    seeds: tuple[float, ...] = ()
    interval: tuple[float, float] | None = None
    significant: bool = False

    @property
    def text(self) -> str:
        """The difference in points, or IoU in percent without one; empty for a class that does not
        occur in both rows."""
        if math.isnan(self.iou if self.mean is None else self.mean):
            return ""
        return f"{self.iou:.1f}" if self.mean is None else signed(self.mean)

    @property
    def interval_text(self) -> str:
        """The interval in points."""
        if self.interval is None:
            return EMPTY
        return f"[{signed(self.interval[0])}, {signed(self.interval[1])}]"


@dataclass(frozen=True)
class ClassLine:
    """The classes of one row. is_compared_to: whether the others are compared to it."""

    label: str
    is_compared_to: bool
    classes: tuple[ClassDifference, ...]


@dataclass(frozen=True)
class HeatMap:
    """IoU by class in one cell of the grid. full: the difference with the full color, in points."""

    grid_cell: tuple[str, ...]
    classes: tuple[str, ...]
    lines: tuple[ClassLine, ...]
    full: float

    @property
    def has_differences(self) -> bool:
        """Whether the lines other than that row's are differences to it."""
        return any(line.is_compared_to for line in self.lines)

    def intensity(self, cell: ClassDifference) -> float:
        """Return the color of a cell from -1 to 1; 0 unless its difference is clear of 0."""
        return cell.mean / self.full if cell.significant and cell.mean is not None else 0.0


def heat_map(study: Study, rows: Sequence[Row], grid_cell: tuple[str, ...]) -> HeatMap | None:
    """Return the IoU by class of the rows in a grid cell that may be compared with `compare_to`,
    over the seeds they share with it; None if no row has counts."""
    compared_to, candidates = comparable_rows(study, rows, grid_cell)
    if not candidates:
        return None
    their_counts = {} if compared_to is None else by_seed(compared_to)
    classes = next(iter(by_seed(candidates[0]).values())).classes
    lines = []
    for row in candidates:
        counts = {seed: each for seed, each in by_seed(row).items() if each.classes == classes}
        shared = shared_seeds(counts, their_counts)
        if not shared:
            continue
        iou = _over_repetitions(counts, shared)
        is_compared_to = row is compared_to
        if is_compared_to or not their_counts:
            means = _mean(iou).tolist()
            cells = [ClassDifference(*each) for each in zip(classes, means, strict=True)]
        else:
            theirs = _over_repetitions(their_counts, shared)
            cells = class_differences(classes, iou, theirs, study.config.fold_count)
        lines.append(ClassLine(row.label, is_compared_to, tuple(cells)))
    means = [abs(cell.mean) for line in lines for cell in line.classes if cell.mean is not None]
    full = max([_FULL_COLOR, *(value for value in means if not math.isnan(value))])
    return HeatMap(grid_cell, classes, tuple(lines), full)


def class_differences(
    classes: Sequence[str],
    iou: NDArray[np.float64],
    compared_to: NDArray[np.float64],
    folds: int | None = None,
) -> list[ClassDifference]:
    """Return the difference of each class.

    iou, compared_to: in percent, `(seeds, classes)`; with folds, `(folds, classes)`, NaN for a
    class that does not occur in a fold. folds: number of folds of the study, if any.
    """
    differences = iou - compared_to
    means, counts = _mean(differences), np.isfinite(differences).sum(axis=0)
    errors, critical = np.full((2, len(classes)), np.nan)
    for index, count in enumerate(counts.tolist()):
        if count > 1:
            deviation = float(np.nanstd(differences[:, index], ddof=1))
            errors[index] = deviation * math.sqrt(variance_factor(count, folds))
            critical[index] = special.stdtrit(count - 1, (1 + LEVEL) / 2)
    p_values: list[float | None] = [None] * len(classes)
    for index, (mean, error) in enumerate(zip(means.tolist(), errors.tolist(), strict=True)):
        if error > 0:
            p_values[index] = float(2 * special.stdtr(counts[index] - 1, -abs(mean) / error))
    cells = []
    for index, corrected in enumerate(holm(p_values)):
        mean, reach = float(means[index]), float(critical[index] * errors[index])
        values = differences[:, index]
        cells.append(
            ClassDifference(
                classes[index],
                float(_mean(iou)[index]),
                mean,
                tuple(values[np.isfinite(values)].tolist()),
                None if math.isnan(reach) else (mean - reach, mean + reach),
                corrected is not None and corrected < ALPHA,
            )
        )
    return cells


def _over_repetitions(
    counts: Mapping[Repetition, ResampledCounts], shared: Sequence[Repetition]
) -> NDArray[np.float64]:
    """Return the IoU in percent of each seed, or the mean over seeds of each fold, `(seeds or
    folds, classes)`; NaN for a class that does not occur."""
    by_fold: dict[object, list[NDArray[np.float64]]] = {}
    for repetition in shared:
        fold = fold_of(repetition)
        key = repetition if fold is None else fold
        iou, labeled = counts[repetition].iou, counts[repetition].labeled
        # Labels of a fold may lack a class that others have.
        shown = iou if fold is None else np.where(labeled, iou, np.nan)
        by_fold.setdefault(key, []).append(100 * shown)
    return np.stack([_mean(np.stack(values)) for values in by_fold.values()])


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over the first axis of the values that are not NaN; NaN if there are none."""
    present = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        mean = np.where(present, values, 0.0).sum(axis=0) / present.sum(axis=0)
    return np.asarray(mean)
