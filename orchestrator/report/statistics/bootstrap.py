"""Bootstrap of scores over images: their variation due to the choice of validation images.

Images from one drive or city are not independent. With six groups or more, whole groups are drawn
(Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8). Fewer groups
say little about others, so images are drawn within each group and the result holds for these groups
only; if each has one image, images are drawn. The draws are seeded by the images' identifiers and
groups, so all trials scored on the same images share the same draws and every comparison is paired.

A replicate's mIoU is the mean over the classes that occur in its labels. Labels are the same for
all trials, so all have the same classes. (A trial's own score counts a class without labels as 0 if
a model predicts it, as the benchmarks do.)
"""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UserError
from pipelines.evaluation.counts import Counts, mean_over_classes
from pipelines.evaluation.metrics import (
    COUNT_METRICS,
    ClassMetric,
    GroupIoU,
    Measured,
    Metric,
    undefined_as_nan,
)
from pipelines.machine import cores
from pipelines.wording import suggestion

REPLICATES = 10_000
# With fewer groups, images are drawn within each group.
FEW_GROUPS = 6
# Maximum number of 8-byte values in one array; several such arrays exist at a time.
_BLOCK_VALUES = 2**21
_MAX_THREADS = 4


class UnknownClassError(UserError, ValueError):
    """The report names a class that the scored images do not have."""


@dataclass(frozen=True)
class Sampling:
    """How a bootstrap draws images.

    unit: what is drawn: `images`; whole `groups`; or images `within groups`.
    units: number of these. freedom: their number minus the number of means they vary around.
    groups: names of the groups; empty if unknown.
    """

    unit: Literal["images", "groups", "within groups"]
    units: int
    freedom: int
    groups: tuple[str, ...] = ()

    @property
    def inflation(self) -> float:
        """The factor by which a bootstrap underestimates a standard error."""
        return float(np.sqrt(self.units / self.freedom))


def sampling_of(counts: Counts) -> Sampling:
    """Return how the labeled images of `counts` are drawn."""
    return _sampling(_with_labels(counts).groups)


def _sampling(groups: tuple[str | None, ...]) -> Sampling:
    """Return how images of these groups are drawn; None is the group of an image without one."""
    images = len(groups)
    names = tuple(dict.fromkeys(group for group in groups if group is not None))
    if len(names) < 2:
        return Sampling("images", images, images - 1, names)
    if len(names) >= FEW_GROUPS:
        units = len(names) + groups.count(None)
        return Sampling("groups", units, units - 1, names)
    strata = len(set(groups))
    if strata == images:
        # A group of one image says nothing about others of the group.
        return Sampling("images", images, images - 1, names)
    return Sampling("within groups", images, images - strata, names)


def resampled_scores(
    counts: Sequence[Counts],
    measured: Sequence[Sequence[Measured]],
    replicates: int = REPLICATES,
) -> list[dict[str, NDArray[np.float64]]]:
    """Return the scores of each replicate, `(replicates,)` float64, by metric for each of `counts`.

    Scores are computed from the summed statistics of a replicate's images; those of classes over
    the classes in its labels. Raises ValueError unless all `counts` have the same images and
    classes.

    measured: metrics of the same images as `counts`.
    """
    if not counts:
        return []
    if not all(entry.same_images(counts[0]) for entry in counts):
        raise ValueError("counts must have the same images and classes to be resampled together")
    kept = [_labeled_images(entry) for entry in counts]
    labels = [_labels(entry)[images] for entry, images in zip(counts, kept, strict=True)]
    metrics = [
        [replace(each, statistics=each.statistics[images]) for each in own]
        for own, images in zip(measured, kept, strict=True)
    ]
    first = _with_labels(counts[0])
    images = len(first.identifiers)
    # One product of all statistics is several times as fast as one of each.
    statistics = np.hstack([each.statistics for own in metrics for each in own])
    same_labels = [np.array_equal(own, labels[0]) for own in labels]

    def scores_of(draws: NDArray[np.uint8]) -> list[dict[str, NDArray[np.float64]]]:
        weights = draws.astype(np.float64)
        # Exact, because sums of pixels are far below 2**53.
        sums = weights @ statistics
        common = weights @ labels[0] > 0
        end = 0
        scores: list[dict[str, NDArray[np.float64]]] = []
        for own, own_labels, same in zip(metrics, labels, same_labels, strict=True):
            present = common if same else weights @ own_labels > 0
            scores.append({})
            for each in own:
                begin, end = end, end + each.statistics.shape[1]
                scores[-1][each.key] = labeled_score(each.metric, sums[:, begin:end], present)
        return scores

    # The draws within groups depend on the rows, so these must not depend on the metrics.
    rows = max(1, _BLOCK_VALUES // max(images, labels[0].shape[1]))
    step = max(1, _BLOCK_VALUES // statistics.shape[1])
    pieces = [
        draws[start : start + step]
        for draws in _draws(first.identifiers, first.groups, replicates, rows)
        for start in range(0, len(draws), step)
    ]
    with ThreadPoolExecutor(min(cores(), _MAX_THREADS)) as threads:  # numpy releases the GIL
        blocks = list(threads.map(scores_of, pieces))
    return [
        {key: np.concatenate([each[key] for each in parts]) for key in parts[0]}
        for parts in zip(*blocks, strict=True)
    ]


def labeled_score(
    metric: Metric, sums: NDArray[np.float64], labeled: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the score, `(...)`, over the classes that occur in the labels.

    sums: float64 `(..., S)`. labeled: bool `(..., classes)`.
    """
    with undefined_as_nan():
        if not isinstance(metric, ClassMetric):
            return metric.score(sums)
        return mean_over_classes(np.where(labeled, metric.class_scores(sums), np.nan))


def count_metric(
    counts: Counts, name: str, groups: Mapping[str, Sequence[str]] | None = None
) -> Measured:
    """Return a metric with the counts as its statistics.

    name: one of `COUNT_METRICS`, or `iou/NAME` of a class or of one of the `groups` of classes.
    Raises UnknownClassError if there is no such class.
    """
    statistics = counts.values.reshape(len(counts.values), -1).astype(np.float64)
    _, _, class_name = name.partition("iou/")
    if not class_name:
        return Measured(name, COUNT_METRICS[name], statistics)
    members = (groups or {}).get(class_name, (class_name,))
    for each in members:
        if each not in counts.classes:
            raise UnknownClassError(
                f"the report has {name!r}, but the scored images have no class {each!r}; "
                f"{suggestion(each, list(counts.classes))}"
            )
    return Measured(name, GroupIoU([*map(counts.classes.index, members)]), statistics)


def labeled_classes(counts: Counts) -> NDArray[np.bool_]:
    """Return which classes occur in the labels, `(classes,)`."""
    labels = counts.values[..., 0] + counts.values[..., 2]
    return np.asarray(labels.sum(axis=0) > 0)


def _labeled_images(counts: Counts) -> list[int]:
    return np.flatnonzero(counts.values.sum(axis=(1, 2))).tolist()


def _with_labels(counts: Counts) -> Counts:
    """Return `counts` without the images that have no labeled pixel: they add nothing to any sum,
    and a replicate that consists of them alone would have no mIoU."""
    labeled = _labeled_images(counts)
    return replace(
        counts,
        identifiers=tuple(counts.identifiers[index] for index in labeled),
        groups=tuple(counts.groups[index] for index in labeled),
        values=counts.values[labeled],
    )


def _labels(counts: Counts) -> NDArray[np.float64]:
    """Return the labeled pixels of each image and class, `(images, classes)`."""
    return (counts.values[..., 0] + counts.values[..., 2]).astype(np.float64)


def keyed_generator(*key: object) -> np.random.Generator:
    """Return a random generator seeded by `key` alone."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest[:16])))


@lru_cache(maxsize=2)  # 10 MB for 1000 images
def _draws(
    identifiers: tuple[str, ...], groups: tuple[str | None, ...], replicates: int, block: int
) -> list[NDArray[np.uint8]]:
    """Return how often each image occurs in each replicate, `(at most block, images)` at a time."""
    sampling = _sampling(groups)
    generator = keyed_generator("images", identifiers, groups)
    if sampling.unit == "groups":
        # An image without a group is its own group.
        names: list[object] = [
            group if group is not None else (image,)
            for image, group in zip(identifiers, groups, strict=True)
        ]
        strata = [np.arange(sampling.units)]
    else:
        names = list(range(len(identifiers)))
        keys: Sequence[str | None] = [None] * len(names)
        if sampling.unit == "within groups":
            keys = groups
        strata = [
            np.array([index for index, other in enumerate(keys) if other == key])
            for key in dict.fromkeys(keys)
        ]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    unit_of_image = np.array([numbers[name] for name in names])
    blocks = []
    for first in range(0, replicates, block):
        rows = min(block, replicates - first)
        drawn = np.zeros((rows, len(numbers)), np.uint8)
        for units in strata:
            chosen = generator.integers(len(units), size=(rows, len(units)))
            chosen += len(units) * np.arange(rows)[:, None]
            counted = np.bincount(chosen.ravel(), minlength=rows * len(units))
            drawn[:, units] = counted.reshape(rows, len(units))  # above 255 with p < 1e-500
        blocks.append(drawn[:, unit_of_image])
    return blocks
