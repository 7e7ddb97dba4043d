"""True and false positives and false negatives by image and class, as a trial's run keeps them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.evaluation.scores import Scores

COUNTS_SCHEMA = pa.schema(
    [
        ("identifier", pa.string()),
        ("group", pa.string()),
        ("class", pa.string()),
        ("tp", pa.int64()),
        ("fp", pa.int64()),
        ("fn", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Counts:
    """Pixels of the images a model was scored on, in the order of the split.

    identifiers, groups: by image; a group is a city or a drive, None where it is not known.
    values: int64 `(images, classes, 3)`, true positives, false positives, false negatives.
    """

    identifiers: tuple[str, ...]
    groups: tuple[str | None, ...]
    classes: tuple[str, ...]
    values: NDArray[np.int64]

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union per class in [0, 1], `(classes,)`; NaN for an absent class."""
        return _ratio(self.values.sum(axis=0))

    @property
    def miou(self) -> float:
        """Mean IoU in [0, 1] over the classes that occur in a label or a prediction."""
        return float(np.nanmean(self.iou))

    @property
    def image_miou(self) -> NDArray[np.float64]:
        """mIoU in [0, 1] of each image by itself, `(images,)`; NaN for one without labels."""
        iou = _ratio(self.values)
        there = ~np.isnan(iou)
        total = np.where(there, iou, 0).sum(axis=1)
        return np.divide(
            total, there.sum(axis=1), out=np.full(len(iou), np.nan), where=there.any(1)
        )

    def same_images(self, other: "Counts") -> bool:
        """Whether both are of the same images and classes, in the same order."""
        return self.identifiers == other.identifiers and self.classes == other.classes


def read_counts(path: Path) -> Counts:
    """Read what `write_counts` wrote.

    Raises ValueError where the file holds something else.
    """
    try:
        with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
            table = reader.read_all()
        names = table["class"].to_pylist()
        classes = tuple(dict.fromkeys(names))
        if not names or names != list(classes) * (len(names) // len(classes)):
            raise ValueError("its rows are not every class of every image")
        # The first version of the file knew no groups.
        known = "group" in table.column_names
        groups = table["group"].to_pylist() if known else [None] * len(names)
        values = np.stack([table[name].to_numpy() for name in ("tp", "fp", "fn")], axis=-1)
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        raise ValueError(f"{path}: no counts by image and class ({error})") from None
    return Counts(
        tuple(table["identifier"].to_pylist()[:: len(classes)]),
        tuple(groups[:: len(classes)]),
        classes,
        values.reshape(-1, len(classes), 3),
    )


def _ratio(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """IoU from `(..., 3)` counts; NaN where there is nothing to count."""
    union = counts.sum(axis=-1)
    return np.divide(counts[..., 0], union, out=np.full(union.shape, np.nan), where=union > 0)


def write_counts(
    path: Path,
    scores: Scores,
    identifiers: Sequence[str],
    classes: Sequence[str],
    groups: Sequence[str | None],
) -> None:
    """Write the counts of each image as an Arrow file: `identifier`, `group`, `class`, `tp`, `fp`,
    `fn`.

    A row for every image and class, in the order of the split; `pyarrow.feather.read_table` and
    `datasets.Dataset.from_file` read it. identifiers and groups: of the whole split; a group is
    what belongs together, such as a city or a drive, None where that is not known.
    """
    assert scores.images is not None, "the images were counted"
    positions = scores.images.positions.tolist()
    counts = scores.images.counts.reshape(-1, 3).numpy()
    table = pa.table(
        [
            [identifiers[position] for position in positions for _ in classes],
            [groups[position] for position in positions for _ in classes],
            [name for _ in positions for name in classes],
            *(counts[:, column] for column in range(3)),
        ],
        schema=COUNTS_SCHEMA,
    )
    with pa.ipc.new_file(path, COUNTS_SCHEMA) as writer:
        writer.write_table(table)
