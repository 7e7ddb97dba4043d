"""Select the images of a split on which two models differ most."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.counts import Counts


def image_gains(first: Sequence[Counts], second: Sequence[Counts]) -> NDArray[np.float64]:
    """Return the mIoU of each image by itself of the second model minus that of the first,
    `(images,)` in [-1, 1].

    Both are given by their counts on the same images, one for each seed; the mIoU is the mean over
    the seeds. An image without any class has mIoU 0.
    """
    mious = [
        np.mean([np.nan_to_num(counts.image_miou) for counts in side], axis=0)
        for side in (first, second)
    ]
    return np.asarray(mious[1] - mious[0])


def most_different(
    gains: NDArray[np.float64], count: int, groups: Sequence[str | None] | None = None
) -> list[int]:
    """Return the positions of the `count` images with the largest absolute gains, largest gains
    first.

    Adjacent images of a split are often frames of one scene, so the images are chosen some
    distance apart, and no group (a city, a drive) gets a second image before every group that
    differs has one.
    """
    sizes = np.abs(gains)
    images = len(sizes)
    count = min(count, images)
    distance = max(1, images // (2 * max(count, 1)))
    order = [int(position) for position in np.argsort(-sizes, kind="stable")]
    groups = groups or [None] * images
    chosen: list[int] = []
    while len(chosen) < count:
        far = [p for p in order if all(abs(p - other) >= distance for other in chosen)]
        candidates = far or [p for p in order if p not in chosen]
        taken = {group: sum(groups[c] == group for c in chosen) for group in set(groups)}
        # For the sake of another group, accept half of the largest remaining difference.
        good = [p for p in candidates if sizes[p] >= sizes[candidates[0]] / 2]
        chosen.append(min(good, key=lambda p: (taken[groups[p]], candidates.index(p))))
    return sorted(chosen, key=lambda p: -gains[p])
