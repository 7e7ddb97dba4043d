"""IoU by class, and the best and worst images, from per-image counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.report.resampled import ResampledCounts
from orchestrator.report.rows import Row
from orchestrator.study.study import Study

# The largest difference gets the full color, but no difference below 5 points of IoU does.
_FULL_COLOR = 5.0


@dataclass(frozen=True)
class HeatMap:
    """IoU by class in one cell of the grid.

    lines: for each row, its label and, for each class, a text and a color intensity from -1 to 1.
        The row that is compared to shows its IoU, other rows show their difference from it.
    """

    grid_cell: str
    classes: tuple[str, ...]
    lines: tuple[tuple[str, tuple[tuple[str, float], ...]], ...]


@dataclass(frozen=True)
class ImageLine:
    """The mIoU of one image in percent, of two rows, and their difference in points."""

    identifier: str
    group: str
    base: float
    miou: float
    gain: float


@dataclass(frozen=True)
class ImageList:
    """The images with the highest and lowest difference of the row `label` from the row `base`; by
    mIoU if there is no `base`."""

    grid_cell: str
    label: str
    base: str
    best: tuple[ImageLine, ...]
    worst: tuple[ImageLine, ...]


def heat_map(study: Study, rows: Sequence[Row], grid_cell: tuple[str, ...]) -> HeatMap | None:
    """Return the IoU by class of the rows in a grid cell that may be compared with `compare_to`,
    over the seeds they share with it; None if no row has counts."""
    base, comparable = _comparable(study, rows, grid_cell)
    if not comparable:
        return None
    base_counts = {} if base is None else _by_seed(base)
    classes = next(iter(_by_seed(comparable[0]).values())).classes
    entries = []
    for row in comparable:
        counts = {seed: each for seed, each in _by_seed(row).items() if each.classes == classes}
        shared = _shared_seeds(counts, base_counts)
        if shared:
            base_iou = None if row is base or not base_counts else _iou(base_counts, shared)
            entries.append((row.label, _iou(counts, shared), base_iou))
    differences = [100 * np.abs(iou - other) for _, iou, other in entries if other is not None]
    largest = max([_FULL_COLOR, *(float(np.nanmax(each)) for each in differences)])
    lines = tuple((label, _colored(iou, other, largest)) for label, iou, other in entries)
    return HeatMap(", ".join(grid_cell), classes, lines)


def image_list(study: Study, rows: Sequence[Row], grid_cell: tuple[str, ...]) -> ImageList | None:
    """Return the best and worst images of the last row in a grid cell that has counts and may be
    compared with `compare_to`; None without counts, or if `report.images` is 0."""
    base, comparable = _comparable(study, rows, grid_cell)
    count = study.config.report.images
    if not comparable or not count:
        return None
    row = comparable[-1]
    base_counts = {} if base is None or row is base else _by_seed(base)
    counts = _by_seed(row)
    shared = _shared_seeds(counts, base_counts)
    if not shared:
        return None
    first = counts[shared[0]]
    names, groups = first.identifiers, first.groups
    miou = _image_miou([counts[seed] for seed in shared])
    base_miou = np.zeros(len(names))
    if base_counts:
        base_miou = _image_miou([base_counts[seed] for seed in shared])
    order = [int(index) for index in np.argsort(base_miou - miou) if not np.isnan(miou[index])]
    lines = [
        ImageLine(
            names[index],
            groups[index] or "",
            100 * float(base_miou[index]),
            100 * float(miou[index]),
            100 * float(miou[index] - base_miou[index]),
        )
        for index in order
    ]
    half = min(count, len(lines) // 2)
    worst = tuple(reversed(lines[len(lines) - half :]))
    label = base.label if base is not None and base_counts else ""
    return ImageList(", ".join(grid_cell), row.label, label, tuple(lines[:half]), worst)


def _comparable(
    study: Study, rows: Sequence[Row], grid_cell: tuple[str, ...]
) -> tuple[Row | None, list[Row]]:
    """Return the row of `compare_to` in a grid cell, None if it has no counts, and all rows with
    counts that may be compared with it, including itself."""
    comparable = [
        row for row in rows if row.grid_cell == grid_cell and not row.incomparable and _by_seed(row)
    ]
    base = next((row for row in comparable if row.variant == study.config.compare_to), None)
    return base, comparable


def _by_seed(row: Row) -> dict[int, ResampledCounts]:
    """Return the counts of a row's trials by seed, restricted to the images of its first trial."""
    counts = {
        result.trial.experiment.seed: result.counts
        for result in row.finished
        if result.counts is not None
    }
    first = next(iter(counts.values()), None)
    return {
        seed: each
        for seed, each in counts.items()
        if first and each.identifiers == first.identifiers
    }


def _shared_seeds(
    counts: Mapping[int, ResampledCounts], base_counts: Mapping[int, ResampledCounts]
) -> list[int]:
    """Return the seeds that both have, scored on the same images; all seeds if there is no base."""
    return [
        seed
        for seed, each in counts.items()
        if not base_counts
        or (seed in base_counts and base_counts[seed].identifiers == each.identifiers)
    ]


def _iou(counts: Mapping[int, ResampledCounts], seeds: Sequence[int]) -> NDArray[np.float64]:
    return np.asarray(np.mean([counts[seed].iou for seed in seeds], axis=0))


def _image_miou(counts: Sequence[ResampledCounts]) -> NDArray[np.float64]:
    return np.asarray(np.mean([each.image_miou for each in counts], axis=0))


def _colored(
    iou: NDArray[np.float64], base: NDArray[np.float64] | None, full: float
) -> tuple[tuple[str, float], ...]:
    """Return text and color intensity for each class, 1 at a difference of `full` points; the text
    of an absent class is empty."""
    cells = []
    for index, value in enumerate(iou.tolist()):
        if base is None:
            text, intensity = f"{100 * value:.1f}", 0.0
        else:
            difference = 100 * (value - float(base[index]))
            text, intensity = f"{difference:+.1f}", difference / full
        cells.append(("", 0.0) if "nan" in text else (text, intensity))
    return tuple(cells)
