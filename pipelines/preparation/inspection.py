"""Describe a prepared data set, and verify that its content is unchanged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial

import numpy as np

from pipelines.data.dataset import PreparedDataset, Split
from pipelines.data.facts import dataset_warnings, summary
from pipelines.data.image_format import RGB, ImageFormat
from pipelines.data.manifest import DatasetError, Shard
from pipelines.data.prefetch import prefetch
from pipelines.wording import counted


def describe_dataset(dataset: PreparedDataset) -> str:
    """Return counts, sizes and class frequencies as lines of text."""
    manifest = dataset.manifest
    lines = [f"{manifest.name}  fingerprint {manifest.fingerprint}", ""]
    lines += [f"images: {line}" for line in image_format_lines(manifest.images)]
    for name, count in manifest.counts.items():
        split = dataset.split(name)
        shards = [shard for shard in manifest.shards if shard.split == name]
        mebibytes = sum(shard.bytes for shard in shards) / 2**20
        size = f"{_range(split.heights)} x {_range(split.widths)} pixels (height x width)"
        unlabeled = "" if split.class_pixels.any() else ", unlabeled"
        lines.append(
            f"{name}: {counted(count, 'image')}, {size}, "
            f"{counted(len(shards), 'shard')}, {mebibytes:.1f} MiB{unlabeled}"
        )
    pixels = sum(manifest.class_pixels) + manifest.ignored_pixels
    ignored = manifest.ignored_pixels / pixels if pixels else 0.0
    image_counts = _images_with_class(dataset)
    lines += ["", f"{'class':>24}  {'share':>8}  images"]
    for info, share, images in zip(
        manifest.classes, manifest.class_frequencies, image_counts, strict=True
    ):
        lines.append(f"{info.name:>24}  {share:8.3%}  {images}")
    lines.append(f"{'ignored':>24}  {ignored:8.3%}  (of the pixels of labeled images)")
    lines += ["", *summary(dataset, [name for name, count in manifest.counts.items() if count])]
    lines += [f"warning: {line}" for line in dataset_warnings(dataset)]
    lines += [f"skipped {problem}" for problem in manifest.skipped]
    lines += [f"note: {note}" for note in manifest.notes]
    return "\n".join(lines)


def image_format_lines(images: ImageFormat) -> list[str]:
    """Return a line about the images, unless they are 8-bit RGB in ImageNet's normalization."""
    if images == RGB:
        return []
    low, high = images.scale
    scale = "" if images.bits == 8 else f", scale [{low}, {high}]"
    mean, std = (
        ", ".join(f"{each:.4g}" for each in values) for values in (images.mean, images.std)
    )
    shown = ", ".join(map(str, images.shown))
    return [f"{images}{scale}, mean [{mean}], std [{std}], drawn in RGB: channels {shown}"]


def verify(
    dataset: PreparedDataset,
    progress: Callable[[int, int], None] = lambda done, total: None,
    threads: int = 1,
) -> None:
    """Compare every shard with its SHA-256, and decode every sample and recount its pixels.

    progress: called with the samples done and the total, after each sample.

    Raises:
        DatasetError: something differs or cannot be read; the message lists all problems.
    """
    manifest = dataset.manifest
    problems = []

    def shard_problem(shard: Shard) -> str | None:
        try:
            data = dataset.location.read(shard.file)
        except OSError as error:
            return f"{shard.file}: cannot be read ({error})"
        same = hashlib.sha256(data).hexdigest() == shard.sha256
        return None if same else f"{shard.file}: its SHA-256 is not the manifest's"

    def sample_problem(split: Split, index: int) -> str | None:
        try:
            _, label = split.read(index)
        except DatasetError as error:
            return str(error)
        counts = np.bincount(label.ravel(), minlength=256)[: len(manifest.classes)]
        same = np.array_equal(counts, split.class_pixels[index])
        sample = f"{split.name}/{split.identifiers[index]}"
        return None if same else f"{sample}: its pixel counts are not the index's"

    problems += _count_problems(dataset)
    for problem in prefetch(shard_problem, manifest.shards, threads, ahead=threads):
        problems += [] if problem is None else [problem]
    done, total = 0, sum(manifest.counts.values())
    for name in (name for name, count in manifest.counts.items() if count):
        split = dataset.split(name)
        for problem in prefetch(
            partial(sample_problem, split), range(len(split)), threads, ahead=2 * threads
        ):
            problems += [] if problem is None else [problem]
            done += 1
            progress(done, total)
    if problems:
        listed = "\n  ".join(problems)
        raise DatasetError(
            f"{dataset.location.uri}: {counted(len(problems), 'problem')}; delete "
            f"{dataset.location.uri} and prepare it again\n  {listed}"
        )


def _count_problems(dataset: PreparedDataset) -> list[str]:
    """Return where the manifest's counts of images and pixels are not those of the index."""
    manifest = dataset.manifest
    images = dict.fromkeys(manifest.counts, 0)
    for shard in manifest.shards:
        images[shard.split] = images.get(shard.split, 0) + shard.rows
    problems = [
        f"{name}: {count} samples, but the manifest says {manifest.counts.get(name, 0)}"
        for name, count in images.items()
        if count != manifest.counts.get(name, 0)
    ]
    if problems:
        return problems
    splits = {name: dataset.split(name) for name in images}
    pixels = sum(split.class_pixels.sum(axis=0) for split in splits.values())
    for entry, found, stated in zip(manifest.classes, pixels, manifest.class_pixels, strict=True):
        if found != stated:
            problems.append(
                f"{entry.name}: {found} pixels in the index, but the manifest says {stated}"
            )
    areas = np.concatenate([split.heights * split.widths for split in splits.values()])
    labeled = np.concatenate([split.class_pixels.sum(axis=1) for split in splits.values()])
    ignored = int((areas - labeled)[labeled > 0].sum())
    # The index does not tell an image without a label from one whose pixels are all ignored.
    if not 0 <= manifest.ignored_pixels - ignored <= int(areas[labeled == 0].sum()):
        problems.append(
            f"ignored: {ignored} pixels in the index, but the manifest says "
            f"{manifest.ignored_pixels}"
        )
    return problems


def _images_with_class(dataset: PreparedDataset) -> list[int]:
    totals = np.zeros(len(dataset.manifest.classes), np.int64)
    for name in dataset.manifest.counts:
        totals += (dataset.split(name).class_pixels > 0).sum(axis=0)
    return [int(total) for total in totals]


def _range(values: np.ndarray) -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low}-{high}"
