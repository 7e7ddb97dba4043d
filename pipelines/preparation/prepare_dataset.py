"""Checking a source and writing it as a prepared data set: in parallel, resumably, atomically."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from os import _exit
from pathlib import Path
from tempfile import gettempdir

from filelock import FileLock

from pipelines.data.manifest import MANIFEST_NAME, VERSION, DatasetError, Manifest
from pipelines.data.storage import Location, locate
from pipelines.preparation.checking import CheckedSample, check
from pipelines.preparation.readers.reader import Listing, Reader, Record, duplicates
from pipelines.preparation.writing import JOURNAL_NAME, Writer, staging_location

SHARD_BYTES = 128 << 20
# Records in work or waiting for each process, so that memory is bounded and none waits.
AHEAD = 4

Progress = Callable[[int, int], None]


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
        ChildProcessError: a worker process was killed, as for lack of memory.
    """
    location = locate(destination)
    if not reader.source.is_dir():
        raise DatasetError(f"{reader.source}: no such directory")
    listing = reader.listing()
    if not listing.records:
        raise DatasetError(_report(reader, listing.problems or ["holds no samples"]))
    recipe = recipe_digest(reader, listing, skip_invalid, tile)
    with _alone(location):
        there = _already_there(location, recipe)
        if there is not None:
            return there
        staging = staging_location(location)
        writer = Writer(reader, staging, recipe)
        try:
            manifest = _write(reader, listing, writer, workers, skip_invalid, tile, progress)
        except DatasetError:
            writer.discard()
            raise
        writer.commit(manifest, location)
        return manifest


def recipe_digest(reader: Reader, listing: Listing, skip_invalid: bool, tile: int) -> str:
    """Identifies what is to be done: same source files, same reader, same options and format."""
    classes = [asdict(each) for each in reader.classes]
    described = [VERSION, reader.version, skip_invalid, tile, classes, listing.problems]
    digest = hashlib.sha256(json.dumps(described).encode())
    for record in listing.records:
        line = f"{record.split}\n{record.identifier}\n{record.group}\n{reader.stamp(record)}\n"
        digest.update(line.encode())
    return digest.hexdigest()


def _write(
    reader: Reader,
    listing: Listing,
    writer: Writer,
    workers: int,
    skip_invalid: bool,
    tile: int,
    progress: Progress,
) -> Manifest:
    """Check all records, write a shard for each range of the plan, and sum them up."""
    records = listing.records
    study = _study(reader, records)
    todo = [part for number, part in enumerate(study) if number not in writer.finished]
    done = len(records) - sum(len(part) for part in todo)
    progress(done, len(records))
    pending = (records[index] for part in todo for index in part)
    problems = list(listing.problems)
    work = partial(check, reader, tile=tile, repeated=duplicates(records))
    with _checked(work, pending, workers) as results:
        for number, part in enumerate(study):
            if number in writer.finished:
                continue
            good: list[CheckedSample] = []
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
        raise DatasetError(_report(reader, problems))
    if all(part.shard is None for part in writer.finished.values()):
        raise DatasetError(_report(reader, problems))
    return writer.finish(tile, left_out=listing.problems)


def _study(reader: Reader, records: list[Record]) -> list[range]:
    """Ranges of records that share a shard: of one split, of about SHARD_BYTES together."""
    parts: list[range] = []
    start, size = 0, 0
    for index, record in enumerate(records):
        if index > start and (size > SHARD_BYTES or record.split != records[start].split):
            parts.append(range(start, index))
            start, size = index, 0
        size += reader.bytes(record)
    return [*parts, range(start, len(records))]


def _already_there(location: Location, recipe: str) -> Manifest | None:
    """The manifest at `location` if it was prepared from the same source; None if it is free."""
    sizes = location.sizes()
    if MANIFEST_NAME in sizes:
        where = location.file(MANIFEST_NAME)
        try:
            manifest = Manifest.from_json(location.read(MANIFEST_NAME).decode(), where)
        except (DatasetError, UnicodeDecodeError) as error:
            raise DatasetError(
                f"{location.uri}: already holds a data set that cannot be read; delete it first or "
                f"choose another destination ({error})"
            ) from error
        if manifest.recipe == recipe:
            return manifest
        raise DatasetError(
            f"{location.uri}: already holds the data set {manifest.name!r} "
            f"(fingerprint {manifest.fingerprint[:12]}), prepared from another source or with "
            "other options; choose another destination or delete it first"
        )
    # In an object store, what an interrupted preparation left has its journal beside it.
    left = not location.is_local and JOURNAL_NAME in sizes
    taken = location.is_local and location.directory.exists() and any(location.directory.iterdir())
    if taken or (sizes and not left):
        raise DatasetError(
            f"{location.uri}: exists and is no prepared data set; choose another destination"
        )
    return None


@contextmanager
def _alone(location: Location) -> Iterator[None]:
    """Keep other processes of this machine from preparing the same destination."""
    lock = _lock_file(location)
    with FileLock(lock):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # who waits for it sees that it is gone, and makes its own


def _lock_file(location: Location) -> Path:
    """Beside a local destination, so that all users of it meet there; else among one's own
    temporary files."""
    if not location.is_local:
        name = hashlib.sha256(f"{Path.home()}\n{location.uri}".encode()).hexdigest()[:16]
        return Path(gettempdir()) / f"prepare-{name}.lock"
    directory = location.directory
    if directory.is_file():
        raise DatasetError(f"{location.uri}: is a file, expected a directory or a free name")
    directory.parent.mkdir(parents=True, exist_ok=True)
    return directory.with_name(f".{directory.name}.lock")


@contextmanager
def _checked(
    work: Callable[[Record], CheckedSample], records: Iterable[Record], workers: int
) -> Iterator[Iterator[CheckedSample]]:
    """`map(work, records)` in order, in this process or in `workers` others."""
    if workers <= 1:
        yield map(work, records)
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_end_with_parent
    )
    try:
        yield _in_order(pool, work, records, workers * AHEAD)
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a worker process was killed, perhaps because the memory ran out; run the same command "
            "again, with fewer --workers, to go on from the last finished shard"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(
    pool: ProcessPoolExecutor,
    work: Callable[[Record], CheckedSample],
    records: Iterable[Record],
    ahead: int,
) -> Iterator[CheckedSample]:
    source = iter(records)
    pending: deque[Future[CheckedSample]] = deque(
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


def _report(reader: Reader, problems: list[str]) -> str:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return "\n  ".join([f"{reader.name}: {count} in {reader.source}", *problems])
