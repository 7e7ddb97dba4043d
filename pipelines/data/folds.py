"""Divides a split into folds for cross-validation.

The assignment depends on the names of the images and groups alone: not on their order, the seed of
a training or the machine. So all variants of a study are trained and scored on the same folds.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

from pipelines.data.split_names import FoldBy, FoldName

# Keys the assignment; another value would be other folds.
_SEED = 0


def units(identifiers: Sequence[str], groups: Sequence[str | None], by: FoldBy) -> list[str]:
    """Return what each sample is assigned to a fold with: its group, such as a city or a patient,
    or itself, if it has none or `by` is `image`."""
    return [
        f"image {identifier}" if by == "image" or group is None else f"group {group}"
        for identifier, group in zip(identifiers, groups, strict=True)
    ]


def assign_folds(names: Sequence[str], count: int) -> list[int]:
    """Return the fold of each sample, from 0. names: the unit of each; samples with the same unit
    are in the same fold.

    The largest unit is assigned first, each to the fold with the fewest samples, as scikit-learn's
    `GroupKFold` does; units of the same size are in an order keyed by their names. So folds of
    single images differ by at most one image in size.

    Raises:
        ValueError: there are fewer units than folds.
    """
    sizes = Counter(names)
    if len(sizes) < count:
        raise ValueError(f"{len(sizes)} units are too few for {count} folds")
    ordered = sorted(sizes, key=lambda name: (-sizes[name], _key(name)))
    filled = [0] * count
    fold_of: dict[str, int] = {}
    for name in ordered:
        fold_of[name] = filled.index(min(filled))
        filled[fold_of[name]] += sizes[name]
    return [fold_of[name] for name in names]


def fold_rows(
    fold: FoldName, identifiers: Sequence[str], groups: Sequence[str | None]
) -> list[int]:
    """Return the indices of the samples in a fold, or in all others. identifiers, groups: of the
    samples of the whole split.

    Raises:
        ValueError: the split has too few groups or images for the folds.
    """
    names = units(identifiers, groups, fold.by)
    available = len(set(names))
    if available < fold.count:
        grouped = fold.by == "group" and available < len(identifiers)
        what = "group" if grouped else "image"
        what += "s" if available > 1 else ""
        remedy = f"use at most {available} folds" if available > 1 else "use no folds"
        if grouped:
            remedy += ", or divide groups by assigning each image by itself (`by: image`)"
        raise ValueError(
            f"split {fold.split!r} has {available} {what}, too few for {fold.count} folds; {remedy}"
        )
    assigned = assign_folds(names, fold.count)
    return [row for row, index in enumerate(assigned) if (index == fold.index) == fold.held_out]


def _key(name: str) -> bytes:
    return hashlib.sha256(f"{_SEED}\0{name}".encode()).digest()
