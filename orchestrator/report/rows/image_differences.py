"""The images on which rows differ most, from per-image counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.report.rows.comparisons import why_incomparable
from orchestrator.report.rows.row import Row
from orchestrator.report.statistics.resampled import ResampledCounts
from orchestrator.study.repetition import Repetition, fold_of
from orchestrator.study.study import Study

_VISIBLE = 0.005  # differences in points that are smaller are shown as 0


@dataclass(frozen=True)
class ImageLine:
    """The mIoU of one image in percent, of two rows, and their difference in points."""

    identifier: str
    group: str
    compared_to_miou: float
    miou: float
    gain: float


@dataclass(frozen=True)
class ImageList:
    """The images on which the row `label` gains and loses most against the row `compared_to`, of
    which either list may be empty; those with its highest and lowest mIoU if that is empty."""

    label: str
    compared_to: str
    best: tuple[ImageLine, ...]
    worst: tuple[ImageLine, ...]


def image_list(study: Study, rows: Sequence[Row], grid_cell: tuple[str, ...]) -> ImageList | None:
    """Return the best and worst images of the last row in a grid cell that has counts and may be
    compared with `compare_to`; None without counts, if no image differs, or if `report.images` is
    0."""
    compared_to, comparable = comparable_rows(study, rows, grid_cell)
    count = study.config.report.images
    if not comparable or not count:
        return None
    row = comparable[-1]
    their_counts = {} if compared_to is None or row is compared_to else by_seed(compared_to)
    counts = by_seed(row)
    shared = shared_seeds(counts, their_counts)
    if not shared:
        return None
    # Folds may have different images; each is scored once per seed.
    names, groups = _images([counts[seed] for seed in shared])
    miou = _image_miou([counts[seed] for seed in shared], names)
    their_miou = np.zeros(len(names))
    if their_counts:
        their_miou = _image_miou([their_counts[seed] for seed in shared], names)
    order = [int(index) for index in np.argsort(their_miou - miou) if not np.isnan(miou[index])]
    lines = [
        ImageLine(
            names[index],
            groups[index] or "",
            100 * float(their_miou[index]),
            100 * float(miou[index]),
            100 * float(miou[index] - their_miou[index]),
        )
        for index in order
    ]
    half = min(count, len(lines) // 2)
    best, worst = lines[:half], lines[::-1][:half]
    if compared_to is None or not their_counts:
        return ImageList(row.label, "", tuple(best), tuple(worst))
    best = [line for line in best if line.gain > _VISIBLE]
    worst = [line for line in worst if line.gain < -_VISIBLE]
    if not best and not worst:
        return None
    return ImageList(row.label, compared_to.label, tuple(best), tuple(worst))


def comparable_rows(
    study: Study, rows: Sequence[Row], grid_cell: tuple[str, ...]
) -> tuple[Row | None, list[Row]]:
    """Return the row of `compare_to` in a grid cell, None if it has no counts, and all rows with
    counts that may be compared with it, including itself. Rows of a search are not compared."""
    counted = [row for row in rows if row.grid_cell == grid_cell and by_seed(row)]
    compare_to = study.config.compare_to if study.config.kind == "table" else None
    compared_to = next((row for row in counted if row.variant == compare_to), None)
    if compared_to is None:
        return None, [row for row in counted if not row.incomparable]
    return compared_to, [row for row in counted if not why_incomparable(study, row, compared_to)]


def by_seed(row: Row) -> dict[Repetition, ResampledCounts]:
    """Return the counts of a row's trials by seed (and fold), restricted to the images of its first
    trial (of the fold)."""
    counts = {
        result.trial.repetition: result.counts
        for result in row.finished
        if result.counts is not None
    }
    first: dict[int | None, ResampledCounts] = {}
    for repetition, each in counts.items():
        first.setdefault(fold_of(repetition), each)
    return {
        repetition: each
        for repetition, each in counts.items()
        if each.identifiers == first[fold_of(repetition)].identifiers
    }


def shared_seeds(
    counts: Mapping[Repetition, ResampledCounts], their_counts: Mapping[Repetition, ResampledCounts]
) -> list[Repetition]:
    """Return the seeds (and folds) that both have, scored on the same images; all if
    `their_counts` is empty."""
    return [
        seed
        for seed, each in counts.items()
        if not their_counts
        or (seed in their_counts and their_counts[seed].identifiers == each.identifiers)
    ]


def _images(counts: Sequence[ResampledCounts]) -> tuple[list[str], list[str | None]]:
    """Return the names and the groups of the images of any of the counts."""
    groups: dict[str, str | None] = {}
    for each in counts:
        groups |= dict(zip(each.identifiers, each.groups, strict=True))
    return list(groups), list(groups.values())


def _image_miou(counts: Sequence[ResampledCounts], names: Sequence[str]) -> NDArray[np.float64]:
    """Return the mIoU of each image by itself, the mean over the counts that have it."""
    values: dict[str, list[float]] = {name: [] for name in names}
    for each in counts:
        for name, value in zip(each.identifiers, each.image_miou.tolist(), strict=True):
            values[name].append(value)
    return np.array([np.mean(values[name]) for name in names])
