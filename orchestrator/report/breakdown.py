"""What the counts by image and class show beyond one figure: classes and images gained and lost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.report.resampled import ResampledCounts
from orchestrator.report.rows import Row
from orchestrator.study.study import Study

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


def heat_map(study: Study, rows: Sequence[Row], place: tuple[str, ...]) -> HeatMap | None:
    """Of the rows in a cell of the grid, but for those that must not be compared with `compare_to`,
    each over the seeds that both have; None where none has counts."""
    base, there = _comparable(study, rows, place)
    if not there:
        return None
    against = {} if base is None else _by_seed(base)
    classes = next(iter(_by_seed(there[0]).values())).classes
    alike = []
    for row in there:
        ours = {seed: s for seed, s in _by_seed(row).items() if s.classes == classes}
        shared = _shared(ours, against)
        if shared:
            theirs = None if row is base or not against else _iou(against, shared)
            alike.append((row.label, _iou(ours, shared), theirs))
    differences = [100 * np.abs(iou - theirs) for _, iou, theirs in alike if theirs is not None]
    largest = max([_FULL_COLOUR, *(float(np.nanmax(each)) for each in differences)])
    lines = tuple((label, _shades(iou, theirs, largest)) for label, iou, theirs in alike)
    return HeatMap(", ".join(place), classes, lines)


def image_list(study: Study, rows: Sequence[Row], place: tuple[str, ...]) -> ImageList | None:
    """For the last row that has counts in a cell of the grid and may be compared, against
    `compare_to`; None without counts, or where the report wants no images."""
    base, there = _comparable(study, rows, place)
    count = study.config.report.images
    if not there or not count:
        return None
    row = there[-1]
    against = {} if base is None or row is base else _by_seed(base)
    trials = _by_seed(row)
    shared = _shared(trials, against)
    if not shared:
        return None
    first = trials[shared[0]]
    names, groups = first.identifiers, first.groups
    ours = _image_miou([trials[seed] for seed in shared])
    theirs = np.zeros(len(names))
    if against:
        theirs = _image_miou([against[seed] for seed in shared])
    order = [int(index) for index in np.argsort(theirs - ours) if not np.isnan(ours[index])]
    lines = [
        ImageLine(
            names[index],
            groups[index] or "",
            100 * float(theirs[index]),
            100 * float(ours[index]),
            100 * float(ours[index] - theirs[index]),
        )
        for index in order
    ]
    half = min(count, len(lines) // 2)
    worst = tuple(reversed(lines[len(lines) - half :]))
    label = base.label if base is not None and against else ""
    return ImageList(", ".join(place), row.label, label, tuple(lines[:half]), worst)


def _comparable(
    study: Study, rows: Sequence[Row], place: tuple[str, ...]
) -> tuple[Row | None, list[Row]]:
    """The row of `compare_to` in a cell of the grid, None where it has no counts; and all with
    counts that may be compared with it."""
    there = [r for r in rows if r.place == place and not r.incomparable and _by_seed(r)]
    base = next((row for row in there if row.variant == study.config.compare_to), None)
    return base, there


def _by_seed(row: Row) -> dict[int, ResampledCounts]:
    """The row's trials that have counts of the same images as its first, by seed."""
    scored = {
        result.trial.experiment.seed: result.scored
        for result in row.finished
        if result.scored is not None
    }
    first = next(iter(scored.values()), None)
    return {
        s: each for s, each in scored.items() if first and each.identifiers == first.identifiers
    }


def _shared(
    ours: Mapping[int, ResampledCounts], theirs: Mapping[int, ResampledCounts]
) -> list[int]:
    """The seeds to compare: those that both have, of the same images; all where there is nothing to
    compare with."""
    return [
        seed
        for seed, scored in ours.items()
        if not theirs or (seed in theirs and theirs[seed].identifiers == scored.identifiers)
    ]


def _iou(trials: Mapping[int, ResampledCounts], seeds: Sequence[int]) -> NDArray[np.float64]:
    return np.asarray(np.mean([trials[seed].iou for seed in seeds], axis=0))


def _image_miou(trials: Sequence[ResampledCounts]) -> NDArray[np.float64]:
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
