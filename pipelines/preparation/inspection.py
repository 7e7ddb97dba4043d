"""What a prepared data set holds, and whether it is as it was written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial

import numpy as np

from pipelines.data.dataset import DatasetError, PreparedDataset, Split
from pipelines.data.manifest import Shard
from pipelines.data.prefetch import prefetch


def describe(dataset: PreparedDataset) -> str:
    """Counts, sizes and class frequencies as lines of text."""
    manifest = dataset.manifest
    lines = [f"{manifest.name}  fingerprint {manifest.fingerprint}", ""]
    for name, count in manifest.counts.items():
        split = dataset.split(name)
        shards = [shard for shard in manifest.shards if shard.split == name]
        size = sum(shard.bytes for shard in shards) / 2**20
        labelled = "" if split.class_pixels.any() else ", nothing labelled"
        lines.append(
            f"{name}: {count} images, {_range(split.widths)} x {_range(split.heights)} pixels, "
            f"{len(shards)} shard{'s' * (len(shards) != 1)}, {size:.1f} MiB{labelled}"
        )
    pixels = sum(manifest.class_pixels) + manifest.ignored_pixels
    ignored = manifest.ignored_pixels / pixels if pixels else 0.0
    occurs = _images_with_class(dataset)
    lines += ["", f"{'class':>24}  {'share':>8}  images"]
    for info, share, images in zip(
        manifest.classes, manifest.class_frequencies, occurs, strict=True
    ):
        lines.append(f"{info.name:>24}  {share:8.3%}  {images}")
    lines.append(f"{'ignored':>24}  {ignored:8.3%}  (of all labelled images' pixels)")
    lines += [f"skipped {problem}" for problem in manifest.skipped]
    return "\n".join(lines)


def verify(
    dataset: PreparedDataset,
    progress: Callable[[int, int], None] = lambda done, total: None,
    threads: int = 1,
) -> None:
    """Compare every shard with its SHA-256, and decode and count every sample again.

    Raises:
        DatasetError: something differs; all problems are listed.
    """
    manifest = dataset.manifest
    problems = []

    def matches(shard: Shard) -> bool:
        return hashlib.sha256(dataset.location.read(shard.file)).hexdigest() == shard.sha256

    def problem(split: Split, index: int) -> str | None:
        try:
            _, label = split.read(index)
        except DatasetError as error:
            return str(error)
        counts = np.bincount(label.ravel(), minlength=256)[: len(manifest.classes)]
        same = np.array_equal(counts, split.class_pixels[index])
        return None if same else f"{split.name}/{split.identifiers[index]}: other pixel counts"

    same = prefetch(matches, manifest.shards, threads, ahead=threads)
    for shard, found in zip(manifest.shards, same, strict=True):
        if not found:
            problems.append(f"{shard.file}: its SHA-256 is not the manifest's")
    done, total = 0, sum(manifest.counts.values())
    for name, count in manifest.counts.items():
        split = dataset.split(name)
        if len(split) != count:
            problems.append(f"{name}: {len(split)} samples, the manifest says {count}")
        for wrong in prefetch(
            partial(problem, split), range(len(split)), threads, ahead=2 * threads
        ):
            problems += [] if wrong is None else [wrong]
            done += 1
            progress(done, total)
    if problems:
        listed = "\n  ".join(problems)
        raise DatasetError(f"{dataset.location.uri}: {len(problems)} problems\n  {listed}")


def _images_with_class(dataset: PreparedDataset) -> list[int]:
    totals = np.zeros(len(dataset.manifest.classes), np.int64)
    for name in dataset.manifest.counts:
        totals += (dataset.split(name).class_pixels > 0).sum(axis=0)
    return [int(total) for total in totals]


def _range(values: np.ndarray) -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low}-{high}"
