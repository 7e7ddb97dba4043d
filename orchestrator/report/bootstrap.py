"""Bootstrap of mIoU over images: its variation due to the choice of validation images.

Images from one drive or city are not independent, so whole groups are drawn first, then images
within each group (two-stage bootstrap; Davison and Hinkley, "Bootstrap Methods and their
Application", 1997, section 3.8). The draws are seeded by the images' identifiers and groups, so all
trials scored on the same images share the same draws and every comparison is paired.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.counts import Counts

REPLICATES = 10_000
# Maximum number of 8-byte values in one array; several such arrays exist at a time.
_BLOCK_VALUES = 2**21


def resampled_miou(
    counts: Sequence[Counts], replicates: int = REPLICATES
) -> list[NDArray[np.float64]]:
    """Return the mIoU in [0, 1] of each replicate, `(replicates,)` float64 for each of `counts`.

    mIoU is computed from the summed counts of a replicate's images. Raises ValueError unless all
    `counts` have the same images and classes.
    """
    if not counts:
        return []
    if not all(entry.same_images(counts[0]) for entry in counts):
        raise ValueError("counts must have the same images and classes to be resampled together")
    counts = [_labeled(entry) for entry in counts]
    images, classes, _ = counts[0].values.shape
    pixels = [_true_and_union(entry) for entry in counts]
    scores: list[list[NDArray[np.float64]]] = [[] for _ in counts]
    for weights in _weights(counts[0], replicates, max(1, _BLOCK_VALUES // max(images, classes))):
        for blocks, columns in zip(scores, pixels, strict=True):
            sums = weights @ columns  # exact: sums of pixels stay far below 2**53
            true, union = sums[:, :classes], sums[:, classes:]
            present = union > 0
            iou = np.divide(true, union, out=np.zeros_like(union), where=present)
            blocks.append(iou.sum(axis=1) / present.sum(axis=1))
    return [np.concatenate(blocks) for blocks in scores]


def _labeled(counts: Counts) -> Counts:
    """Return `counts` without the images that have no labeled pixel: they add nothing to any sum,
    and a replicate that consists of them alone would have no mIoU."""
    labeled = np.flatnonzero(counts.values.sum(axis=(1, 2))).tolist()
    return replace(
        counts,
        identifiers=tuple(counts.identifiers[index] for index in labeled),
        groups=tuple(counts.groups[index] for index in labeled),
        values=counts.values[labeled],
    )


def _true_and_union(counts: Counts) -> NDArray[np.float64]:
    """Return `(images, 2 * classes)`: true positives, then the union of label and prediction."""
    true, union = counts.values[..., 0], counts.values.sum(axis=-1)
    return np.concatenate([true, union], axis=1).astype(np.float64)


def keyed_generator(*key: object) -> np.random.Generator:
    """Return a random generator seeded by `key` alone."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest[:16])))


def group_sizes(counts: Counts) -> dict[str, int]:
    """Return the number of images of each group; images without a group are left out."""
    groups = [group for group in counts.groups if group is not None]
    return {group: groups.count(group) for group in dict.fromkeys(groups)}


def _weights(counts: Counts, replicates: int, block: int) -> Iterator[NDArray[np.float64]]:
    """Yield how often each image occurs in each replicate, `(at most block, images)` at a time."""
    # An image without a group is its own group.
    names = [
        group if group is not None else (image,)
        for image, group in zip(counts.identifiers, counts.groups, strict=True)
    ]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    group_of = np.array([numbers[name] for name in names])
    order = np.argsort(group_of, kind="stable")
    sizes = np.bincount(group_of)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    images, groups = len(group_of), len(sizes)
    generator = keyed_generator("images", counts.identifiers, counts.groups)
    for first in range(0, replicates, block):
        rows = min(block, replicates - first)
        chosen = generator.integers(groups, size=rows * groups)
        drawn = sizes[chosen]
        row = np.repeat(np.repeat(np.arange(rows), groups), drawn)
        within = (generator.random(len(row)) * np.repeat(drawn, drawn)).astype(np.int64)
        image = order[np.repeat(starts[chosen], drawn) + within]
        counted = np.bincount(row * images + image, minlength=rows * images)
        yield counted.reshape(rows, images).astype(np.float64)
