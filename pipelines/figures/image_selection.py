"""Which pictures of a split show best where two models differ."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class ImageDifferences:
    """Two models on the same images, by image.

    size: mean over an image's classes of the absolute difference of IoU, `(images,)`, in [0, 1].
    gain: mIoU of the second model minus that of the first, `(images,)`, in [-1, 1].
    """

    size: NDArray[np.float64]
    gain: NDArray[np.float64]

    @staticmethod
    def of(first: Counts, second: Counts) -> "ImageDifferences":
        """first, second: true positives, false positives, false negatives,
        `(images, classes, 3)`."""
        ious = [_iou(counts) for counts in (first, second)]
        present = np.logical_or(*((counts.sum(axis=-1) > 0) for counts in (first, second)))
        # A class that only one model sees in an image is a difference of all that model's IoU.
        change = np.where(present, np.abs(ious[1] - ious[0]), 0).sum(axis=1)
        size = change / np.maximum(present.sum(axis=1), 1)
        mious = [_image_miou(counts) for counts in (first, second)]
        return ImageDifferences(size, mious[1] - mious[0])

    def most(self, count: int, groups: Sequence[str | None] | None = None) -> list[int]:
        """Positions of `count` images that differ most, the second model's gains first.

        Neighbours in a split are often frames of one scene: of a stretch of it, one is taken, and
        of a group (a city, a drive) none before every group that differs has had its turn.
        """
        images = len(self.size)
        count = min(count, images)
        apart = max(1, images // (2 * max(count, 1)))
        order = [int(position) for position in np.argsort(-self.size, kind="stable")]
        groups = groups or [None] * images
        chosen: list[int] = []
        while len(chosen) < count:
            far = [p for p in order if all(abs(p - other) >= apart for other in chosen)]
            left = far or [p for p in order if p not in chosen]
            turns = {group: sum(groups[c] == group for c in chosen) for group in set(groups)}
            # Half of the largest difference that is left still shows something.
            worth = [p for p in left if self.size[p] >= self.size[left[0]] / 2]
            chosen.append(min(worth, key=lambda p: (turns[groups[p]], left.index(p))))
        return sorted(chosen, key=lambda p: -self.gain[p])


def _iou(counts: Counts) -> NDArray[np.float64]:
    """`(..., classes)`; 0 for a class that is not there."""
    return counts[..., 0] / np.maximum(counts.sum(axis=-1), 1)


def _image_miou(counts: Counts) -> NDArray[np.float64]:
    """Mean IoU over the classes that occur in an image's label or prediction; 0 without any."""
    present = counts.sum(axis=-1) > 0
    return _iou(counts).sum(axis=1) / np.maximum(present.sum(axis=1), 1)
