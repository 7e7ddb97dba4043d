"""mIoU over resampled images: how much of it is due to the pictures that happen to be there.

Images are not independent where a drive or a city gives many of them, so whole groups are drawn
first, then images within each (the two-stage bootstrap; Davison and Hinkley, "Bootstrap Methods and
their Application", 1997, section 3.8). The draws follow from the images' names alone: every trial
that was scored on the same images meets the same draws, which makes all comparisons paired.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.counts import Counts

REPLICATES = 10_000
# Values of the largest array, of 8 bytes each; a few of that size are held at once.
_BLOCK_VALUES = 2**21


def resampled_miou(
    counts: Sequence[Counts], replicates: int = REPLICATES
) -> list[NDArray[np.float64]]:
    """mIoU in [0, 1] from the summed counts of each replicate's images, `(replicates,)` for each of
    `counts`.

    Raises ValueError where they are not all of the same images and classes.
    """
    if not counts:
        return []
    if not all(entry.same_images(counts[0]) for entry in counts):
        raise ValueError("only what was scored on the same images is resampled together")
    counts = [_labelled(entry) for entry in counts]
    images, classes, _ = counts[0].values.shape
    pixels = [_true_and_union(entry) for entry in counts]
    scores: list[list[NDArray[np.float64]]] = [[] for _ in counts]
    for weights in _weights(counts[0], replicates, max(1, _BLOCK_VALUES // max(images, classes))):
        for gathered, columns in zip(scores, pixels, strict=True):
            sums = weights @ columns  # exact: sums of pixels stay far below 2**53
            true, union = sums[:, :classes], sums[:, classes:]
            present = union > 0
            iou = np.divide(true, union, out=np.zeros_like(union), where=present)
            gathered.append(iou.sum(axis=1) / present.sum(axis=1))
    return [np.concatenate(blocks) for blocks in scores]


def _labelled(counts: Counts) -> Counts:
    """Without the images that have no labelled pixel: they add nothing to any sum, and a replicate
    of them alone would have no mIoU."""
    there = np.flatnonzero(counts.values.sum(axis=(1, 2))).tolist()
    return replace(
        counts,
        identifiers=tuple(counts.identifiers[index] for index in there),
        groups=tuple(counts.groups[index] for index in there),
        values=counts.values[there],
    )


def _true_and_union(counts: Counts) -> NDArray[np.float64]:
    """`(images, 2 * classes)`: true positives, then pixels of the label or the prediction."""
    true, union = counts.values[..., 0], counts.values.sum(axis=-1)
    return np.concatenate([true, union], axis=1).astype(np.float64)


def keyed_generator(*key: object) -> np.random.Generator:
    """Random numbers that follow from `key` alone."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest[:16])))


def group_sizes(counts: Counts) -> dict[str, int]:
    """Images of each group; an image whose group is not known stands alone and is left out."""
    known = [group for group in counts.groups if group is not None]
    return {group: known.count(group) for group in dict.fromkeys(known)}


def _weights(counts: Counts, replicates: int, block: int) -> Iterator[NDArray[np.float64]]:
    """How often each image is in each replicate, `(up to block, images)` at a time."""
    # An image whose group is not known is a group of its own.
    names = [
        group if group is not None else (image,)
        for image, group in zip(counts.identifiers, counts.groups, strict=True)
    ]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    member = np.array([numbers[name] for name in names])
    order = np.argsort(member, kind="stable")
    sizes = np.bincount(member)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    images, groups = len(member), len(sizes)
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
