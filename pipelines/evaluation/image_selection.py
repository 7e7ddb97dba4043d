"""Select the images of a split that best show how two models differ."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.counts import Counts, class_iou, mean_over_classes


@dataclass(frozen=True)
class ImageDifferences:
    """How two models differ on each of the same images, by the mean over their seeds.

    size: mean absolute difference of IoU over the classes in an image, `(images,)` in [0, 1].
    gain: mIoU of the second model minus mIoU of the first, `(images,)` in [-1, 1].
    """

    size: NDArray[np.float64]
    gain: NDArray[np.float64]

    @staticmethod
    def of(first: Sequence[Counts], second: Sequence[Counts]) -> "ImageDifferences":
        """Compare the counts of two models on the same images, each with one or more seeds.

        A class counts for an image if it occurs in the label or in any prediction, with IoU 0 for a
        seed that does not predict it. An image without any class has size and gain 0.
        """
        ious = [np.stack([class_iou(counts.values) for counts in side]) for side in (first, second)]
        present = ~np.isnan(np.concatenate(ious)).all(axis=0)
        means = [np.nan_to_num(iou).mean(axis=0) for iou in ious]
        size = np.abs(means[1] - means[0]).sum(axis=1) / np.maximum(present.sum(axis=1), 1)
        mious = [np.nan_to_num(mean_over_classes(iou)).mean(axis=0) for iou in ious]
        return ImageDifferences(size, mious[1] - mious[0])

    def top(self, count: int, groups: Sequence[str | None] | None = None) -> list[int]:
        """Return the positions of the `count` images that differ most, largest gains first.

        Adjacent images of a split are often frames of one scene, so the images are chosen some
        distance apart, and no group (a city, a drive) gets a second image before every group that
        differs has one.
        """
        images = len(self.size)
        count = min(count, images)
        distance = max(1, images // (2 * max(count, 1)))
        order = [int(position) for position in np.argsort(-self.size, kind="stable")]
        groups = groups or [None] * images
        chosen: list[int] = []
        while len(chosen) < count:
            far = [p for p in order if all(abs(p - other) >= distance for other in chosen)]
            candidates = far or [p for p in order if p not in chosen]
            taken = {group: sum(groups[c] == group for c in chosen) for group in set(groups)}
            # For the sake of another group, accept half of the largest remaining difference.
            good = [p for p in candidates if self.size[p] >= self.size[candidates[0]] / 2]
            chosen.append(min(good, key=lambda p: (taken[groups[p]], candidates.index(p))))
        return sorted(chosen, key=lambda p: -self.gain[p])
