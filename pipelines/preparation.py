"""Checking a source and writing it as a prepared data set: in parallel, resumably, atomically."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from os import _exit
from pathlib import Path

import pyarrow as pa
from filelock import FileLock

from pipelines.checking import Checked, check
from pipelines.manifest import (
    INDEX_NAME,
    MANIFEST_NAME,
    DatasetError,
    Manifest,
    Shard,
    content_digest,
)
from pipelines.readers.reader import IGNORE, Reader, Record, duplicates
from pipelines.shards import Sample, describe_shard, encode_index, encode_shard
from pipelines.storage import Location, locate

SHARD_BYTES = 128 << 20
JOURNAL_NAME = "journal.json"
# Records in work or waiting for each process, so that memory is bounded and none waits.
AHEAD = 4

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Written:
    """A finished shard (None: all its records were skipped) and its part of the statistics."""

    shard: Shard | None
    class_pixels: list[int]
    pixels: int
    labelled_pixels: int
    channel_sums: list[int]
    problems: list[str]


def prepare(
    reader: Reader,
    destination: str | Path,
    workers: int = 1,
    skip_invalid: bool = False,
    tile: int = 1024,
    progress: Progress = lambda done, total: None,
) -> Manifest:
    """Write what `reader` reads as a prepared data set at `destination`, a directory or URI.

    Does nothing where the same data set is there already. What a killed preparation has finished
    is not done again. Whatever the number of `workers`, the result is the same.

    Args:
        reader: the source.
        destination: directory or URI; must not exist or be empty.
        workers: processes that decode and check; 1 does it in this one.
        skip_invalid: leave bad samples out and record them, instead of failing.
        tile: side in pixels of the tiles whose class centroids are recorded.
        progress: called with samples done and all samples, after each.

    Raises:
        DatasetError: bad samples (all are listed), another data set at `destination`, no source.
    """
    location = locate(destination)
    records = reader.records()
    problems = duplicates(records)
    if not records:
        problems.append(f"{reader.source}: holds no samples")
    if problems:
        raise DatasetError(_listing(reader, problems))
    recipe = recipe_digest(reader, records, skip_invalid, tile)
    with _alone(location):
        there = _already_there(location, recipe)
        if there is not None:
            return there
        staging = _staging(location)
        writer = _Writer(reader, staging, recipe)
        plan = _plan(reader, records)
        try:
            manifest = _write(reader, records, plan, writer, workers, skip_invalid, tile, progress)
        except DatasetError:
            writer.discard()
            raise
        writer.commit(manifest, location)
        return manifest


def recipe_digest(reader: Reader, records: list[Record], skip_invalid: bool, tile: int) -> str:
    """Identifies what is to be done: same source files, same reader, same options."""
    described = [reader.version, skip_invalid, tile, [asdict(each) for each in reader.classes]]
    digest = hashlib.sha256(json.dumps(described).encode())
    for record in records:
        line = f"{record.split}\n{record.identifier}\n{record.group}\n{reader.bytes(record)}\n"
        digest.update(line.encode())
    return digest.hexdigest()


def _write(
    reader: Reader,
    records: list[Record],
    plan: list[range],
    writer: _Writer,
    workers: int,
    skip_invalid: bool,
    tile: int,
    progress: Progress,
) -> Manifest:
    """Check all records, write a shard for each range of the plan, and sum them up."""
    todo = [part for number, part in enumerate(plan) if number not in writer.finished]
    done = len(records) - sum(len(part) for part in todo)
    progress(done, len(records))
    pending = (records[index] for part in todo for index in part)
    problems: list[str] = []
    with _checked(partial(check, reader, tile=tile), pending, workers) as results:
        for number, part in enumerate(plan):
            if number in writer.finished:
                continue
            good: list[Checked] = []
            bad: list[str] = []
            for result in islice(results, len(part)):
                if result.sample is not None:
                    good.append(result)
                bad += result.problems
                done += 1
                progress(done, len(records))
            problems += bad
            if not problems or skip_invalid:
                writer.write(number, good, bad)
            # Otherwise only look for more problems: nothing of this will be kept.
    if problems and not skip_invalid:
        raise DatasetError(_listing(reader, problems))
    if all(part.shard is None for part in writer.finished.values()):
        raise DatasetError(_listing(reader, problems))
    return writer.finish(tile)


def _plan(reader: Reader, records: list[Record]) -> list[range]:
    """Ranges of records that share a shard: of one split, of about SHARD_BYTES together."""
    parts: list[range] = []
    start, size = 0, 0
    for index, record in enumerate(records):
        if index > start and (size > SHARD_BYTES or record.split != records[start].split):
            parts.append(range(start, index))
            start, size = index, 0
        size += reader.bytes(record)
    return [*parts, range(start, len(records))]


class _Writer:
    """Writes shards to the staging place and keeps a journal there of those that are finished."""

    def __init__(self, reader: Reader, staging: Location, recipe: str) -> None:
        self._reader = reader
        self._staging = staging
        self._recipe = recipe
        self._described: dict[str, pa.Table] = {}
        self.finished: dict[int, Written] = self._resume()

    def _resume(self) -> dict[int, Written]:
        sizes = self._staging.sizes()
        try:
            journal = json.loads(self._staging.read(JOURNAL_NAME)) if JOURNAL_NAME in sizes else {}
        except ValueError:
            journal = {}
        if journal.get("recipe") != self._recipe:
            self.discard()
            self._staging.create()
            return {}
        finished = {}
        for number, entry in journal["finished"].items():
            shard = Shard(**entry.pop("shard")) if entry["shard"] else entry.pop("shard")
            if shard is None or sizes.get(shard.file) == shard.bytes:
                finished[int(number)] = Written(shard=shard, **entry)
        return finished

    def write(self, number: int, good: list[Checked], problems: list[str]) -> None:
        """Write the samples of part `number` of the plan and note it in the journal."""
        samples = [each.sample for each in good if each.sample is not None]
        labelled = [each for each in samples if each.label is not None]
        self.finished[number] = Written(
            shard=self._write_shard(number, samples) if samples else None,
            class_pixels=_column_sums([each.class_pixels for each in samples]),
            pixels=sum(each.height * each.width for each in samples),
            labelled_pixels=sum(each.height * each.width for each in labelled),
            channel_sums=_column_sums([each.channel_sums for each in good]),
            problems=problems,
        )
        journal = {
            "recipe": self._recipe,
            "finished": {key: asdict(written) for key, written in self.finished.items()},
        }
        self._staging.replace(JOURNAL_NAME, json.dumps(journal).encode())

    def _write_shard(self, number: int, samples: list[Sample]) -> Shard:
        data = encode_shard(samples)
        content = content_digest(sample.digest for sample in samples)
        split = samples[0].split
        # The content in the name keeps two preparations of one bucket from mixing their shards.
        name = f"{split}-{number:05d}-{content[:8]}.parquet"
        self._staging.write(name, data)
        self._described[name] = describe_shard(name, pa.BufferReader(data))
        digest = hashlib.sha256(data).hexdigest()
        return Shard(name, split, len(samples), len(data), digest, content)

    def finish(self, tile: int) -> Manifest:
        """Write the index of all shards, and sum up what they hold."""
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
        pixels = max(1, sum(part.pixels for part in parts))
        red, green, blue = (
            sum(part.channel_sums[channel] for part in parts if part.channel_sums) / pixels / 255
            for channel in range(3)
        )
        return Manifest(
            name=self._reader.title,
            classes=self._reader.classes,
            ignore_index=IGNORE,
            counts=counts,
            class_pixels=tuple(class_pixels),
            ignored_pixels=sum(part.labelled_pixels for part in parts) - sum(class_pixels),
            image_mean=(red, green, blue),
            tile=tile,
            shards=shards,
            index_sha256=self._write_index(shards),
            skipped=tuple(problem for part in parts for problem in part.problems),
            recipe=self._recipe,
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
        """Make the data set visible under its final name, all at once."""
        self._staging.delete(JOURNAL_NAME)
        self._staging.write(MANIFEST_NAME, manifest.to_json().encode())
        if location.is_local:
            if location.directory.exists():
                location.directory.rmdir()
            self._staging.directory.rename(location.directory)

    def discard(self) -> None:
        """Remove all that was staged."""
        if self._staging.is_local:
            shutil.rmtree(self._staging.path, ignore_errors=True)
        else:
            for name in self._staging.sizes():
                self._staging.delete(name)


def _staging(location: Location) -> Location:
    """Where shards are written first. An object store has no renaming; there the manifest, which
    is written last, is what makes a data set."""
    if not location.is_local:
        return location
    directory = location.directory.with_name(f".{location.directory.name}.partial")
    return Location(str(directory), location.filesystem, str(directory))


def _already_there(location: Location, recipe: str) -> Manifest | None:
    """The manifest at `location` if it was prepared from the same source; None if it is free."""
    sizes = location.sizes()
    if MANIFEST_NAME in sizes:
        where = location.file(MANIFEST_NAME)
        manifest = Manifest.from_json(location.read(MANIFEST_NAME).decode(), where)
        if manifest.recipe == recipe:
            return manifest
        raise DatasetError(
            f"{location.uri}: already holds the data set {manifest.name!r} "
            f"(fingerprint {manifest.fingerprint[:12]}), prepared from another source or with "
            "other options; choose another destination or delete it first"
        )
    if location.is_local and location.directory.exists() and any(location.directory.iterdir()):
        raise DatasetError(
            f"{location.uri}: exists and is no prepared data set; choose another destination"
        )
    return None


@contextmanager
def _alone(location: Location) -> Iterator[None]:
    """Keep other processes of this machine from preparing the same local destination."""
    if not location.is_local:
        yield
        return
    directory = location.directory
    if directory.is_file():
        raise DatasetError(f"{location.uri}: is a file, expected a directory or a free name")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(directory.with_name(f".{directory.name}.lock")):
        yield


@contextmanager
def _checked(
    work: Callable[[Record], Checked], records: Iterable[Record], workers: int
) -> Iterator[Iterator[Checked]]:
    """`map(work, records)` in order, in this process or in `workers` others."""
    if workers <= 1:
        yield map(work, records)
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_end_with_parent
    )
    try:
        yield _in_order(pool, work, records, workers * AHEAD)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(
    pool: ProcessPoolExecutor,
    work: Callable[[Record], Checked],
    records: Iterable[Record],
    ahead: int,
) -> Iterator[Checked]:
    source = iter(records)
    pending: deque[Future[Checked]] = deque(
        pool.submit(work, record) for record in islice(source, ahead)
    )
    while pending:
        yield pending.popleft().result()
        pending.extend(pool.submit(work, record) for record in islice(source, 1))


def _end_with_parent() -> None:
    """In a worker: end when the preparing process is killed, which would otherwise go unnoticed."""
    parent = parent_process()
    if parent is None:
        return

    def watch(sentinel: int) -> None:
        connection.wait([sentinel])
        _exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()


def _column_sums(rows: Sequence[tuple[int, ...]]) -> list[int]:
    return [sum(column) for column in zip(*rows, strict=True)]


def _listing(reader: Reader, problems: list[str]) -> str:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return "\n  ".join([f"{reader.name}: {count} in {reader.source}", *problems])
