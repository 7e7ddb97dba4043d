"""Pixel counts by image and class: IoU computed from them, and the Arrow file that stores them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

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


def class_iou(counts: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return intersection over union, `(...)` in [0, 1].

    A class that occurs in neither the labels nor the predictions (all three counts are 0) has IoU
    NaN; `mean_over_classes` leaves it out.

    counts: `(..., 3)`: true positives, false positives, false negatives.
    """
    union = counts[..., 0] + counts[..., 1] + counts[..., 2]  # faster than a sum over 3 values
    return np.divide(counts[..., 0], union, out=np.full(union.shape, np.nan), where=union > 0)


def mean_over_classes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of `values`, `(..., classes)`, over the classes that are not NaN, `(...)`.

    NaN where every class is NaN. Adds the values in order, as the benchmarks' scripts do, so that
    the result is the same to the last bit.
    """
    present = (~np.isnan(values)).sum(axis=-1)
    total = np.nancumsum(values, axis=-1)[..., -1]
    return np.divide(total, present, out=np.full(present.shape, np.nan), where=present > 0)


@dataclass(frozen=True)
class ImageCounts:
    """Pixel counts of the images in a score.

    positions: int64 `(images,)`, positions of the images in their split.
    counts: int64 `(images, classes, 3)`: true positives, false positives, false negatives.
    """

    positions: "Tensor"
    counts: "Tensor"


@dataclass(frozen=True)
class Counts:
    """Pixel counts of the scored images with their names, in the order of the split.

    identifiers, groups: one per image; a group is a city or a drive, None if unknown.
    values: int64 `(images, classes, 3)`: true positives, false positives, false negatives.
    """

    identifiers: tuple[str, ...]
    groups: tuple[str | None, ...]
    classes: tuple[str, ...]
    values: NDArray[np.int64]

    @property
    def iou(self) -> NDArray[np.float64]:
        """IoU per class over all images, `(classes,)`, as `class_iou` defines it."""
        return class_iou(self.values.sum(axis=0))

    @property
    def miou(self) -> float:
        """Mean IoU in [0, 1] over the classes that occur in a label or a prediction."""
        return float(mean_over_classes(self.iou))

    @property
    def image_miou(self) -> NDArray[np.float64]:
        """mIoU in [0, 1] of each image alone, `(images,)`; NaN for an unlabeled image."""
        return mean_over_classes(class_iou(self.values))

    def same_images(self, other: "Counts") -> bool:
        """Whether both cover the same images and classes in the same order."""
        return self.identifiers == other.identifiers and self.classes == other.classes


def read_counts(path: Path) -> Counts:
    """Read a file written by `write_counts`.

    Raises ValueError if the file has other content.
    """
    try:
        with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
            table = reader.read_all()
        names = table["class"].to_pylist()
        classes = tuple(dict.fromkeys(names))
        if not names or names != list(classes) * (len(names) // len(classes)):
            raise ValueError("its rows are not every class of every image")
        groups = table["group"].to_pylist()
        values = np.stack([table[name].to_numpy() for name in ("tp", "fp", "fn")], axis=-1)
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        raise ValueError(f"{path}: not a file of counts by image and class ({error})") from None
    return Counts(
        tuple(table["identifier"].to_pylist()[:: len(classes)]),
        tuple(groups[:: len(classes)]),
        classes,
        values.reshape(-1, len(classes), 3),
    )


def write_counts(
    path: Path,
    images: ImageCounts,
    identifiers: Sequence[str],
    classes: Sequence[str],
    groups: Sequence[str | None],
) -> None:
    """Write the counts of each image as an Arrow file with the columns of `COUNTS_SCHEMA`.

    One row per image and class, in the order of the split; `pyarrow.feather.read_table` and
    `datasets.Dataset.from_file` can read it.

    identifiers, groups: of the whole split; a group is a city or a drive, None if unknown.
    """
    positions = images.positions.tolist()
    counts = images.counts.reshape(-1, 3).numpy()
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
