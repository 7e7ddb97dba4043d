"""Names of splits: a split of a data set, splits joined by `+`, and folds of either.

A fold has a name like any split, so everything that reads, scores or records a split takes it:
`train:fold-2-of-5` is the third of five folds of `train`, `train:without-fold-2-of-5` the other
four.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

FoldBy = Literal["group", "image"]

_FOLD = re.compile(r"(.+):(without-)?fold-([0-9]+)-of-([0-9]+)(-by-image)?")


@dataclass(frozen=True)
class FoldName:
    """The name of a fold, or of all folds but one.

    split: the split that is divided. index: of the fold, from 0. count: number of folds. by: what
    is assigned to folds. held_out: whether the samples are the fold, or all others.

    Raises:
        ValueError: there is no such fold.
    """

    split: str
    index: int
    count: int
    by: FoldBy = "group"
    held_out: bool = True

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ValueError(f"folds must be at least 2, received {self.count}")
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"fold must be from 0 to {self.count - 1} with {self.count} folds, received "
                f"{self.index}"
            )

    def __str__(self) -> str:
        without = "" if self.held_out else "without-"
        suffix = "-by-image" if self.by == "image" else ""
        return f"{self.split}:{without}fold-{self.index}-of-{self.count}{suffix}"

    @property
    def division(self) -> tuple[str, int, FoldBy]:
        """How the split is divided; folds of different divisions may share samples."""
        return self.split, self.count, self.by


def parse_fold(name: str) -> FoldName | None:
    """Return the fold that `name` means; None if it is not the name of a fold. Raises ValueError
    if there is no such fold."""
    match = _FOLD.fullmatch(name)
    if match is None:
        return None
    split, without, index, count, by_image = match.groups()
    by: FoldBy = "image" if by_image else "group"
    return FoldName(split, int(index), int(count), by, held_out=not without)


def split_parts(name: str) -> tuple[str, ...]:
    """Return the splits that `name` takes samples of, such as `train` and `val` of `train+val`."""
    fold = parse_fold(name)
    return tuple((name if fold is None else fold.split).split("+"))


def check_split_name(key: str, value: str) -> None:
    """Check that `value` names a split, different splits joined by `+`, or folds of these. Raises
    ValueError."""
    parts = split_parts(value)
    nested = any(":" in part and parse_fold(part) is not None for part in parts)
    if nested or not all(part.strip() for part in parts) or len(set(parts)) < len(parts):
        raise ValueError(
            f"{key} must name a split, or different splits joined by +, such as train+val; "
            f"received {value!r}"
        )


def splits_overlap(first: str, second: str) -> bool:
    """Whether two splits share samples by their names: they have a part in common, and are not
    different folds of one division."""
    if not set(split_parts(first)) & set(split_parts(second)):
        return False
    a, b = parse_fold(first), parse_fold(second)
    if a is None or b is None or a.division != b.division:
        return True
    if a.held_out and b.held_out:
        return a.index == b.index
    if a.held_out != b.held_out:
        return a.index != b.index
    return a.index == b.index or a.count > 2


def general_name(name: str) -> str:
    """Return a name for all folds of a division, such as `train (the held-out one of 5 folds)`;
    other names unchanged."""
    fold = parse_fold(name)
    if fold is None:
        return name
    by = " by image" if fold.by == "image" else ""
    which = "the held-out one" if fold.held_out else "all but one"
    return f"{fold.split} ({which} of {fold.count} folds{by})"
