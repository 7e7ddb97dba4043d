"""Facts about the labels of a prepared data set that decide what its scores can mean.

Everything is computed from the manifest and the index; no image is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from pipelines.data.config import AugmentationConfig
from pipelines.data.dataset import PreparedDataset, Split
from pipelines.data.image_format import RGB, ImageFormat
from pipelines.data.manifest import DatasetError, Manifest
from pipelines.data.split_names import parse_fold, splits_overlap
from pipelines.wording import counted, first_names

_FOLD_ADVICE = (
    "choose another number of folds, or `folds: {count: N, by: image}`, which divides groups"
)
_LISTED = 5  # names in a message before it says how many more there are


@dataclass(frozen=True)
class SplitFacts:
    """What the labels of a split hold.

    images: number of images. groups: number of their groups, 0 if they have none. unlabeled: names
    of the images without a labeled pixel. occurring, missing: names of the classes that occur in a
    label, and of those that do not. ignored: share of the pixels that are ignored in the other
    images, 0 to 1; None if no pixel is labeled.
    """

    images: int
    groups: int
    unlabeled: tuple[str, ...]
    occurring: tuple[str, ...]
    missing: tuple[str, ...]
    ignored: float | None


def split_facts(dataset: PreparedDataset, name: str) -> SplitFacts:
    """Return the facts of a split, or of joined splits such as `train+val`."""
    split = dataset.split(name)
    names = [entry.name for entry in dataset.manifest.classes]
    labeled = split.class_pixels.sum(axis=1)
    occurs = split.class_pixels.any(axis=0)
    pixels = int((split.heights * split.widths)[labeled > 0].sum())
    return SplitFacts(
        images=len(split),
        groups=len({group for group in split.groups if group is not None}),
        unlabeled=tuple(split.identifiers[index] for index in np.flatnonzero(labeled == 0)),
        occurring=tuple(np.array(names)[occurs].tolist()),
        missing=tuple(np.array(names)[~occurs].tolist()),
        ignored=1 - int(labeled.sum()) / pixels if pixels else None,
    )


def shared_images(first: Split, second: Split) -> list[tuple[str, str]]:
    """Return the names of the images that two splits share, in the first and in the second.

    Images are compared by their pixels.
    """
    names = dict(zip(second.image_digests, second.identifiers, strict=True))
    return [
        (name, names[digest])
        for digest, name in zip(first.image_digests, first.identifiers, strict=True)
        if digest in names
    ]


def repeated_images(split: Split) -> list[list[int]]:
    """Return the indices of the images of a split that have the same pixels, for each such image
    that occurs more than once."""
    rows: dict[str, list[int]] = {}
    for index, digest in enumerate(split.image_digests):
        rows.setdefault(digest, []).append(index)
    return [indices for indices in rows.values() if len(indices) > 1]


def summary(dataset: PreparedDataset, splits: Sequence[str]) -> list[str]:
    """Return a line about each split: its images, groups, classes and ignored pixels."""
    lines = []
    for name in splits:
        facts = split_facts(dataset, name)
        groups = f" in {counted(facts.groups, 'group')}" if facts.groups else ""
        line = f"{name}: {counted(facts.images, 'image')}{groups}, "
        if facts.ignored is None:
            line += "no pixel is labeled"
        else:
            classes = len(facts.occurring) + len(facts.missing)
            line += (
                f"{len(facts.occurring)} of {classes} classes occur in labels, "
                f"{facts.ignored:.1%} of the pixels are ignored"
            )
        lines.append(line)
    return lines


def dataset_warnings(dataset: PreparedDataset) -> list[str]:
    """Return what a user must know about all splits of a data set, one sentence each."""
    names = [name for name, count in dataset.manifest.counts.items() if count]
    lines = _color_warnings(dataset.manifest)
    for name in names:
        lines += [*_label_warnings(dataset, name), *_repetition_warnings(dataset, name)]
    for first, second in combinations(names, 2):
        lines += _shared_warnings(dataset, first, second)
    return lines


def training_warnings(dataset: PreparedDataset, train: str, scored: Sequence[str]) -> list[str]:
    """Return what a user must know about the splits of an experiment, one sentence each.

    scored: the splits on which the trained network is scored.
    """
    lines = _label_warnings(dataset, train)
    for split in scored:
        lines += [*_label_warnings(dataset, split), *_repetition_warnings(dataset, split)]
        # Splits that overlap by name have a warning of their own.
        if not splits_overlap(train, split):
            lines += _shared_warnings(dataset, train, split)
    return list(dict.fromkeys(lines))


def sampling_warnings(
    dataset: PreparedDataset, train: str, batch: int, crop: tuple[int, int]
) -> list[str]:
    """Return what a user must know about the batches of a training, one sentence each.

    batch: images of a global batch. crop: height and width in pixels.
    """
    split = dataset.split(train)
    lines = []
    if batch > len(split):
        lines.append(
            f"{train}: has {counted(len(split), 'image')}, fewer than the batch of {batch}, so "
            "every step uses images several times and an epoch is one step"
        )
    if not ((split.heights >= crop[0]) | (split.widths >= crop[1])).any():
        height, width = int(split.heights.max()), int(split.widths.max())
        lines.append(
            f"{train}: the crop of {crop[0]} x {crop[1]} pixels is larger than every image (at "
            f"most {height} x {width}), so the rest of a crop is padding, which is ignored"
        )
    return lines


def augmentation_warnings(image_format: ImageFormat, augmentation: AugmentationConfig) -> list[str]:
    """Return which settings of an augmentation have no effect on images of a format."""
    if image_format.channels == RGB.channels:
        return []
    unused = [name for name in ("saturation", "hue") if getattr(augmentation, name)]
    if not unused:
        return []
    return [
        f"images of {image_format} have no {' and '.join(unused)}, so data.augmentation changes "
        "brightness, contrast and blur only"
    ]


def check_classes_occur(manifest: Manifest, source: str) -> None:
    """Check that the labels of a whole data set distinguish classes.

    source: for the message.

    Raises:
        DatasetError: there are labels, but a single class or none occurs in them.
    """
    pixels = zip(manifest.classes, manifest.class_pixels, strict=True)
    occurring = [entry.name for entry, count in pixels if count]
    has_labels = bool(occurring) or manifest.ignored_pixels > 0
    if not has_labels or len(occurring) > 1:
        return
    if not occurring:
        raise DatasetError(
            f"{source}: every pixel of every label is ignored; check the stored values and "
            f"{manifest.ignore_index}, which means ignored unless `values` and `ignore` say "
            "otherwise"
        )
    names = [entry.name for entry in manifest.classes]
    message = f"{source}: {occurring[0]!r} is the only class that occurs in the labels"
    if manifest.ignored_pixels and names.index(occurring[0]) == 0 and len(names) > 1:
        message += (
            f", because value {manifest.ignore_index} means ignored and never {names[1]!r}; for "
            f"masks of 0 and 255 write `values: {{0: {names[0]}, 255: {names[1]}}}`, without "
            "255 in `ignore`"
        )
    else:
        message += ", so every network would have the same score; label at least two classes"
    raise DatasetError(message)


def check_trainable(dataset: PreparedDataset, train: str, validation: str | None) -> None:
    """Check that a training on split `train`, scored on `validation`, can show anything.

    Raises:
        DatasetError: a split is missing, or its labels have fewer than two classes.
    """
    facts = split_facts(dataset, train)
    where = f"{dataset.location.uri}: split {train!r}"
    if facts.ignored is None:
        raise DatasetError(
            f"{where} has no labeled pixel in its {counted(facts.images, 'image')}, so nothing can "
            "be trained; set data.train_split to a split with labels"
        )
    if len(facts.occurring) < 2:
        raise DatasetError(
            f"{where} has only the class {facts.occurring[0]!r} in its labels, so every network "
            "would predict that class everywhere; "
            + (
                _FOLD_ADVICE
                if parse_fold(train)
                else "prepare the data set again with labels of at least two classes"
            )
        )
    if validation is not None:
        check_scorable(
            dataset,
            validation,
            _FOLD_ADVICE
            if parse_fold(validation)
            else "set data.validation_split to a split with labels of at least two classes, or to "
            "null to train without validation",
        )


def check_scorable(dataset: PreparedDataset, split: str, advice: str) -> None:
    """Check that scores on a split can compare networks. advice: what to do if they cannot, for the
    message.

    Raises:
        DatasetError: the split is missing, or its labels have fewer than two classes.
    """
    facts = check_labeled(dataset, split, advice)
    if len(facts.occurring) < 2:
        raise DatasetError(
            f"{dataset.location.uri}: split {split!r} has only the class {facts.occurring[0]!r} in "
            "its labels, so a network that predicts it everywhere would have the highest score; "
            f"{advice}"
        )


def check_labeled(dataset: PreparedDataset, split: str, advice: str) -> SplitFacts:
    """Check that a split has labels; return its facts. advice: what to do if it has none, for the
    message.

    Raises:
        DatasetError: the split is missing or has no labeled pixel.
    """
    facts = split_facts(dataset, split)
    if facts.ignored is None:
        raise DatasetError(
            f"{dataset.location.uri}: split {split!r} has no labeled pixel in its "
            f"{counted(facts.images, 'image')}, so nothing can be scored on it; {advice}"
        )
    return facts


def _color_warnings(manifest: Manifest) -> list[str]:
    by_color: dict[tuple[int, int, int], list[str]] = {}
    for entry in manifest.classes:
        by_color.setdefault(entry.color, []).append(entry.name)
    return [
        f"classes {_listed(names)} have the same color {list(color)}, so figures show them alike"
        for color, names in by_color.items()
        if len(names) > 1
    ]


def _label_warnings(dataset: PreparedDataset, name: str) -> list[str]:
    facts = split_facts(dataset, name)
    if facts.ignored is None:
        return []
    lines = []
    if facts.unlabeled:
        lines.append(
            f"{name}: {len(facts.unlabeled)} of {facts.images} images have no labeled pixel: "
            f"{_listed(facts.unlabeled)}"
        )
    if facts.missing:
        classes = len(facts.occurring) + len(facts.missing)
        verb = "occurs" if len(facts.missing) == 1 else "occur"
        lines.append(
            f"{name}: {len(facts.missing)} of {classes} classes {verb} in no label: "
            f"{_listed(facts.missing)}"
        )
    split = dataset.split(name)
    repeated = repeated_images(split)
    if repeated:
        lines += _contradiction_warnings(split, repeated)
    return lines


def _contradiction_warnings(split: Split, repeated: list[list[int]]) -> list[str]:
    """Return a sentence about images of the same pixels whose labels differ.

    Labels are compared by the number of pixels and the centers of their classes.
    """
    centers = split.centroids
    differing = []
    for indices in repeated:
        labels = {
            (
                tuple(split.class_pixels[index].tolist()),
                centers[centers[:, 0] == index, 1:].tobytes(),
            )
            for index in indices
            if split.class_pixels[index].any()
        }
        if len(labels) > 1:
            differing.append(" = ".join(split.identifiers[index] for index in indices))
    if not differing:
        return []
    return [
        f"{split.name}: {counted(len(differing), 'image')} with the same pixels but different "
        f"labels, of which at most one is right: {_listed(differing)}"
    ]


def _repetition_warnings(dataset: PreparedDataset, name: str) -> list[str]:
    """Return a sentence about images that occur several times in a split with labels."""
    split = dataset.split(name)
    repeated = repeated_images(split)
    if not repeated or not split.class_pixels.any():
        return []
    count = sum(map(len, repeated))
    names = [" = ".join(split.identifiers[index] for index in indices) for indices in repeated]
    return [
        f"{name}: {count} of {len(split)} images have the same pixels as another one, so an "
        f"interval over its images is too narrow: {_listed(names)}"
    ]


def _shared_warnings(dataset: PreparedDataset, first: str, second: str) -> list[str]:
    pairs = shared_images(dataset.split(second), dataset.split(first))
    if not pairs:
        return []
    names = [name if name == other else f"{name} ({other})" for name, other in pairs]
    return [
        f"{second} shares {counted(len(pairs), 'image')} of {len(dataset.split(second))} with "
        f"{first}, so scores on one of them do not measure generalization from the other: "
        f"{_listed(names)}"
    ]


def _listed(names: Sequence[str]) -> str:
    return first_names(names, _LISTED)
