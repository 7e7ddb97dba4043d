"""What the counts by image and class show beyond one figure: classes and images gained and lost."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.report.rows import Row
from orchestrator.report.scored import Scored
from orchestrator.study import Plan

# The largest difference has the full colour, if it is at least so many points of IoU.
_FULL_COLOUR = 5.0


@dataclass(frozen=True)
class HeatMap:
    """IoU by class in one cell of the grid. lines: a row's label and, by class, the text and the
    strength of its colour from -1 to 1; the row that is compared to shows its own IoU, the others
    their differences to it."""

    place: str
    classes: tuple[str, ...]
    lines: tuple[tuple[str, tuple[tuple[str, float], ...]], ...]


@dataclass(frozen=True)
class ImageLine:
    """One image: its own mIoU in percent by two rows, and the difference in points."""

    identifier: str
    group: str
    base: float
    miou: float
    gain: float


@dataclass(frozen=True)
class ImageList:
    """The images on which the row `label` gains and loses most against the row `base`; by its own
    mIoU where there is no `base`."""

    place: str
    label: str
    base: str
    best: tuple[ImageLine, ...]
    worst: tuple[ImageLine, ...]


def heat_map(plan: Plan, rows: Sequence[Row], place: tuple[str, ...]) -> HeatMap | None:
    """Of the rows in a cell of the grid; None where none has counts."""
    scored = [(row, trials) for row in rows if row.place == place and (trials := _scored(row))]
    if not scored:
        return None
    classes = scored[0][1][0].classes
    alike = [
        (row, np.mean([trial.iou for trial in trials], axis=0))
        for row, trials in scored
        if all(trial.classes == classes for trial in trials)
    ]
    base = next((iou for row, iou in alike if row.variant == plan.study.compare_to), None)
    differences = [] if base is None else [100 * np.abs(iou - base) for _, iou in alike]
    largest = max([_FULL_COLOUR, *(float(np.nanmax(each)) for each in differences)])
    lines = tuple(
        (row.label, _shades(iou, None if row.variant == plan.study.compare_to else base, largest))
        for row, iou in alike
    )
    return HeatMap(", ".join(place), classes, lines)


def image_list(plan: Plan, rows: Sequence[Row], place: tuple[str, ...]) -> ImageList | None:
    """For the last row that has counts in a cell of the grid, against `compare_to`; None without
    counts, or where the report wants no images."""
    there = [(row, trials) for row in rows if row.place == place and (trials := _scored(row))]
    count = plan.study.report.images
    if not there or not count:
        return None
    row, trials = there[-1]
    names, groups = trials[0].identifiers, trials[0].groups
    base_label, base = "", np.zeros(len(names))
    for other, those in there[:-1]:
        if other.variant == plan.study.compare_to and those[0].identifiers == names:
            base_label, base = other.label, _image_miou(those)
    ours = _image_miou(trials)
    order = [int(index) for index in np.argsort(base - ours) if not np.isnan(ours[index])]
    lines = [
        ImageLine(
            names[index],
            groups[index] or "",
            100 * float(base[index]),
            100 * float(ours[index]),
            100 * float(ours[index] - base[index]),
        )
        for index in order
    ]
    half = min(count, len(lines) // 2)
    worst = tuple(reversed(lines[len(lines) - half :]))
    return ImageList(", ".join(place), row.label, base_label, tuple(lines[:half]), worst)


def _scored(row: Row) -> list[Scored]:
    """The row's trials that have counts of the same images as its first."""
    scored = [result.scored for result in row.finished if result.scored is not None]
    return [each for each in scored if each.identifiers == scored[0].identifiers]


def _image_miou(trials: Sequence[Scored]) -> NDArray[np.float64]:
    return np.asarray(np.mean([trial.image_miou for trial in trials], axis=0))


def _shades(
    iou: NDArray[np.float64], base: NDArray[np.float64] | None, full: float
) -> tuple[tuple[str, float], ...]:
    """The texts and colours of a line, full at `full` points; an absent class is empty."""
    shades = []
    for index, value in enumerate(iou.tolist()):
        if base is None:
            text, shade = f"{100 * value:.1f}", 0.0
        else:
            difference = 100 * (value - float(base[index]))
            text, shade = f"{difference:+.1f}", difference / full
        shades.append(("", 0.0) if "nan" in text else (text, shade))
    return tuple(shades)
