"""The trainings of one cell of a table: one for each seed, or for each fold of each seed."""

from dataclasses import dataclass

from pipelines.data.split_names import FoldBy

#: A seed, or a seed and a fold. Rows are compared within each.
Repetition = int | tuple[int, int]


MAX_FOLDS = 1000


@dataclass(frozen=True)
class FoldsConfig:
    """Cross-validation: each cell and seed is trained once for each fold.

    count: number of folds that each trial's `data.train_split` is divided into. A trial is trained
        on all folds but one and scored on that one.
    by: what is assigned to folds: `group`, so that images of the same group of the data set (city,
        drive, patient) are in the same fold; or each `image` by itself.
    """

    __pydantic_config__ = {"extra": "forbid"}

    count: int
    by: FoldBy = "group"

    def __post_init__(self) -> None:
        if not 2 <= self.count <= MAX_FOLDS:
            raise ValueError(
                f"count must be at least 2 and at most {MAX_FOLDS}, received {self.count}"
            )


def seed_of(repetition: Repetition) -> int:
    """Return the seed of a repetition."""
    return repetition if isinstance(repetition, int) else repetition[0]


def fold_of(repetition: Repetition) -> int | None:
    """Return the fold of a repetition; None without folds."""
    return None if isinstance(repetition, int) else repetition[1]


def repetition_text(repetition: Repetition) -> str:
    """Return a repetition in words, such as `seed 0, fold 2`."""
    if isinstance(repetition, int):
        return f"seed {repetition}"
    seed, fold = repetition
    return f"seed {seed}, fold {fold}"
