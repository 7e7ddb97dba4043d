"""Write a prepared data set shard by shard: resumable, and visible only when complete."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import pyarrow as pa
import yaml

from pipelines.data.manifest import (
    INDEX_NAME,
    JOURNAL_NAME,
    MANIFEST_NAME,
    Manifest,
    Shard,
    content_digest,
)
from pipelines.data.shards import Sample, describe_shard, encode_index, encode_shard
from pipelines.data.storage import Location
from pipelines.preparation.checking import TILE, CheckedSample
from pipelines.preparation.images.channel_statistics import channel_statistics, image_format
from pipelines.preparation.images.value_range import ValueRange, merged_range
from pipelines.preparation.labels import IGNORE
from pipelines.preparation.labels.forms import LabelForms, merged_forms
from pipelines.preparation.readers.reader import Reader

CARD_NAME = "README.md"


@dataclass(frozen=True)
class FinishedShard:
    """A finished shard (None if all its records were skipped) and its part of the statistics.

    channel_sums, channel_squares: of the channels' values and of their squares.
    stored: the range of the stored values of images of more than 8 bits.
    labels: what the labels of class indices store.
    """

    shard: Shard | None
    class_pixels: list[int]
    pixels: int
    labeled_pixels: int
    channel_sums: list[int]
    channel_squares: list[int]
    problems: list[str]
    stored: ValueRange | None
    labels: LabelForms


class Writer:
    """Writes shards to a staging location, with a journal of the finished ones."""

    def __init__(self, reader: Reader, staging: Location, recipe: str) -> None:
        self._reader = reader
        self._staging = staging
        self._recipe = recipe
        self._described: dict[str, pa.Table] = {}
        self.finished: dict[int, FinishedShard] = self._resume()

    def _resume(self) -> dict[int, FinishedShard]:
        sizes = self._staging.sizes()
        try:
            journal = json.loads(self._staging.read(JOURNAL_NAME)) if JOURNAL_NAME in sizes else {}
        except (ValueError, FileNotFoundError):  # damaged, or deleted by another machine
            journal = {}
        names = {field.name for field in fields(FinishedShard)}
        entries = journal.get("finished", {})
        # An older version may have written a journal with other fields.
        unknown = any(entry.keys() != names for entry in entries.values())
        if journal.get("recipe") != self._recipe or unknown:
            self.discard()
            self._staging.create()
            self._write_journal({})
            return {}
        finished = {}
        for number, entry in entries.items():
            for name, kind in (("shard", Shard), ("stored", ValueRange)):
                entry[name] = kind(**entry[name]) if entry[name] else None
            entry["labels"] = LabelForms.from_json(entry["labels"])
            shard = entry["shard"]
            if shard is None or sizes.get(shard.file) == shard.bytes:
                finished[int(number)] = FinishedShard(**entry)
        return finished

    def write(self, number: int, good: list[CheckedSample], problems: list[str]) -> None:
        """Write the good samples as shard `number` and record it in the journal."""
        samples = [each.sample for each in good if each.sample is not None]
        labeled = [each for each in samples if each.label is not None]
        self.finished[number] = FinishedShard(
            shard=self._write_shard(number, samples) if samples else None,
            class_pixels=_column_sums([each.class_pixels for each in samples]),
            pixels=sum(each.height * each.width for each in samples),
            labeled_pixels=sum(each.height * each.width for each in labeled),
            channel_sums=_column_sums([each.channel_sums for each in good]),
            channel_squares=_column_sums([each.channel_squares for each in good]),
            problems=problems,
            stored=merged_range(each.stored for each in good),
            labels=merged_forms(each.labels for each in good),
        )
        self._write_journal(self.finished)

    def _write_journal(self, finished: dict[int, FinishedShard]) -> None:
        entries = {number: asdict(written) for number, written in finished.items()}
        journal = {"recipe": self._recipe, "finished": entries}
        self._staging.replace(JOURNAL_NAME, json.dumps(journal).encode())

    def _write_shard(self, number: int, samples: list[Sample]) -> Shard:
        data = encode_shard(samples)
        rows = [sample.digest for sample in samples]
        if self._reader.states_groups:  # other groups would be other folds
            rows += [sample.group or "" for sample in samples]
        content = content_digest(rows)
        split = samples[0].split
        # The digest in the name keeps two preparations in one bucket from mixing their shards.
        name = f"{split}-{number:05d}-{content[:8]}.parquet"
        self._staging.write(name, data)
        self._described[name] = describe_shard(name, pa.BufferReader(data))
        digest = hashlib.sha256(data).hexdigest()
        return Shard(name, split, len(samples), len(data), digest, content)

    @property
    def stored(self) -> ValueRange | None:
        """The range of the stored values of all images of more than 8 bits."""
        return merged_range(part.stored for part in self.finished.values())

    @property
    def labels(self) -> LabelForms:
        """What all labels of class indices store."""
        return merged_forms(part.labels for part in self.finished.values())

    def finish(self, left_out: Sequence[str] = (), notes: Sequence[str] = ()) -> Manifest:
        """Write the index of all shards and return the manifest.

        left_out: problems of the source as a whole, recorded with the problems of its samples.
        notes: what a user should know about the source.

        Raises:
            DatasetError: images cannot be normalized, because a channel is constant.
        """
        parts = [self.finished[number] for number in sorted(self.finished)]
        shards = tuple(part.shard for part in parts if part.shard is not None)
        counts: dict[str, int] = {}
        for shard in shards:
            counts[shard.split] = counts.get(shard.split, 0) + shard.rows
        width = len(self._reader.classes)
        class_pixels = [
            sum(part.class_pixels[index] for part in parts if part.class_pixels)
            for index in range(width)
        ]
        images = image_format(self._reader.image_reading, self.stored, parts)
        low, high = images.scale
        every = channel_statistics(parts)
        return Manifest(
            name=self._reader.title,
            classes=self._reader.classes,
            ignore_index=IGNORE,
            counts=counts,
            class_pixels=tuple(class_pixels),
            ignored_pixels=sum(part.labeled_pixels for part in parts) - sum(class_pixels),
            image_mean=tuple((mean - low) / (high - low) for mean in every.means),
            tile=TILE,
            shards=shards,
            index_sha256=self._write_index(shards),
            skipped=(*left_out, *(problem for part in parts for problem in part.problems)),
            recipe=self._recipe,
            notes=tuple(notes),
            images=images,
        )

    def _write_index(self, shards: Sequence[Shard]) -> str:
        tables = []
        for shard in shards:
            if shard.file not in self._described:  # finished before an interruption
                self._described[shard.file] = describe_shard(
                    shard.file, self._staging.open(shard.file)
                )
            tables.append(self._described[shard.file])
        data = encode_index(tables)
        self._staging.write(INDEX_NAME, data)
        return hashlib.sha256(data).hexdigest()

    def commit(self, manifest: Manifest, location: Location) -> None:
        """Make the complete data set visible under its final name."""
        self._staging.write(CARD_NAME, dataset_card(manifest).encode())
        self._staging.write(MANIFEST_NAME, manifest.to_json().encode())
        if location.is_local:
            if location.directory.exists():
                location.directory.rmdir()
            self._staging.directory.rename(location.directory)
        # Last, so that no failure before it loses the finished shards.
        location.delete(JOURNAL_NAME)

    def discard(self) -> None:
        """Delete everything in the staging location."""
        if self._staging.is_local:
            shutil.rmtree(self._staging.path, ignore_errors=True)
        else:
            for name in self._staging.sizes():
                self._staging.delete(name)


def staging_location(location: Location) -> Location:
    """Return where shards are written before the data set is complete.

    For an object store, which cannot rename, this is the final location: a data set is complete
    there when it has a manifest, which is written last.
    """
    if not location.is_local:
        return location
    directory = location.directory.with_name(f".{location.directory.name}.partial")
    return Location(str(directory), location.filesystem, str(directory))


def dataset_card(manifest: Manifest) -> str:
    """Return the dataset card, from which Hugging Face `datasets` learns the shards of each split.

    Without it, `load_dataset` recognizes only splits that are named train, validation or test.
    """
    files = [
        {
            # A split's name there has letters, digits and underscores only.
            "split": re.sub(r"\W", "_", split),
            "path": [shard.file for shard in manifest.shards if shard.split == split],
        }
        for split in manifest.counts
    ]
    head = {"configs": [{"config_name": "default", "data_files": files}]}
    text = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    return (
        f"---\n{text}---\n\n# {manifest.name}\n\nPrepared by `pipelines.prepare`; "
        f"`{MANIFEST_NAME}` describes it.\n{_stored_form(manifest)}"
    )


def _stored_form(manifest: Manifest) -> str:
    """Return how to read images that are not ordinary RGB files."""
    images = manifest.images
    if images.is_stored_as_rgb:
        return ""
    return (
        f"\nAn image has {images}. It is stored as a gray PNG with the channels one below another: "
        f"`numpy.asarray(image).reshape({images.channels}, height, width)`.\n"
    )


def _column_sums(rows: Sequence[tuple[int, ...]]) -> list[int]:
    return [sum(column) for column in zip(*rows, strict=True)]
