"""Check a source and write it as a prepared data set: in parallel, resumable, atomic."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from os import _exit
from pathlib import Path
from tempfile import gettempdir

from filelock import FileLock, Timeout

from pipelines.data.facts import check_classes_occur
from pipelines.data.manifest import JOURNAL_NAME, MANIFEST_NAME, VERSION, DatasetError, Manifest
from pipelines.data.storage import Location, locate
from pipelines.errors import UserError
from pipelines.preparation.checking import TILE, CheckedSample, check
from pipelines.preparation.image_reading import scale_note, scale_problem
from pipelines.preparation.label_forms import mask_problem, palette_problem
from pipelines.preparation.readers.reader import Listing, Reader, Record, duplicates
from pipelines.preparation.source_files import is_text, not_text
from pipelines.preparation.survey import survey
from pipelines.preparation.writing import Writer, staging_location
from pipelines.wording import counted

SHARD_BYTES = 128 << 20
# Records submitted per process: enough to keep it busy, few enough to bound memory.
AHEAD = 4

Progress = Callable[[int, int], None]


class WorkerKilledError(UserError, ChildProcessError):
    """A worker process was killed, probably for lack of memory."""


def prepare(
    reader: Reader,
    destination: str | Path,
    workers: int = 1,
    skip_invalid: bool = False,
    progress: Progress = lambda done, total: None,
    waiting: Callable[[], None] = lambda: None,
) -> Manifest:
    """Write the data set that `reader` reads to `destination`, in the prepared format.

    Does nothing if the same data set already exists there. Resumes an interrupted preparation after
    its last finished shard. The result does not depend on `workers`.

    Args:
        reader: reads the source.
        destination: directory, link to one, or URI; must be empty or not exist.
        workers: processes that decode and check samples; 1 uses this process.
        skip_invalid: skip and record invalid samples instead of failing.
        progress: called with the samples done and the total, after each sample.
        waiting: called once if another process prepares `destination`, which is waited for.

    Raises:
        DatasetError: invalid samples (the message lists all), labels with a single class, no
            source, another data set at `destination`, or a destination that cannot be written.
        WorkerKilledError: a worker process was killed.
    """
    for path in (reader.source, destination):
        if not is_text(str(path)):
            raise DatasetError(not_text(path))
    location = _resolved(locate(destination))
    if not reader.source.is_dir():
        raise DatasetError(f"{reader.source}: no such directory")
    listing = reader.listing()
    if not listing.records:
        raise DatasetError(_report(reader, listing.problems or ["has no samples"]))
    if location.is_local and reader.has_files:
        _check_outside(location.directory, listing)
    recipe = recipe_digest(reader, listing, skip_invalid)
    with _storage_errors(location), _lock(location, waiting):
        existing = _existing(location, recipe)
        if existing is not None:
            check_classes_occur(existing, location.uri)
            return existing
        _check_replaceable(location)
        listing, reading = survey(reader, listing)
        if not listing.records:
            raise DatasetError(_report(reader, listing.problems))
        staging = staging_location(location)
        writer = Writer(reader, staging, recipe)
        work = partial(check, reader, repeated=duplicates(listing.records), reading=reading)
        try:
            manifest = _write(reader, listing, writer, work, workers, skip_invalid, progress)
            check_classes_occur(manifest, str(reader.source))
        except DatasetError:
            writer.discard()
            raise
        writer.commit(manifest, location)
        return manifest


def _resolved(location: Location) -> Location:
    """Return a local location without symbolic links, which a folder cannot be renamed to."""
    if not location.is_local:
        return location
    return replace(location, path=str(location.directory.resolve()))


def _check_replaceable(location: Location) -> None:
    """Check that a folder can be renamed to the destination.

    Raises:
        DatasetError: it is a mount point.
    """
    if location.is_local and os.path.ismount(location.directory):
        raise DatasetError(
            f"{location.uri}: is a mount point, which cannot be replaced by the finished data set; "
            "name a new folder in it"
        )


def _check_outside(destination: Path, listing: Listing) -> None:
    """Check that the destination is in no folder of the source's files, which it would change.

    Raises:
        DatasetError: it is.
    """
    files = (file for record in listing.records for file in (record.image, record.label) if file)
    folders = {file.parent for file in files}
    resolved = destination.resolve()
    for folder in folders:
        if folder.resolve() in (resolved, *resolved.parents):
            raise DatasetError(
                f"{destination} is in {folder}, which holds images or labels of the source; choose "
                "another destination"
            )


def recipe_digest(reader: Reader, listing: Listing, skip_invalid: bool) -> str:
    """Return a digest of all that decides the result: source files, reader, options, format."""
    classes = [asdict(each) for each in reader.classes]
    described = [VERSION, reader.version, skip_invalid, TILE, classes, listing.problems]
    digest = hashlib.sha256(json.dumps(described).encode())
    for record in listing.records:
        line = f"{record.split}\n{record.identifier}\n{record.group}\n{reader.stamp(record)}\n"
        digest.update(line.encode())
    return digest.hexdigest()


def _write(
    reader: Reader,
    listing: Listing,
    writer: Writer,
    work: Callable[[Record], CheckedSample],
    workers: int,
    skip_invalid: bool,
    progress: Progress,
) -> Manifest:
    """Check all records, write a shard for each range of records, and return the manifest.

    work: checks a record.
    """
    records = listing.records
    parts = _shard_ranges(reader, records)
    todo = [part for number, part in enumerate(parts) if number not in writer.finished]
    done = len(records) - sum(len(part) for part in todo)
    progress(done, len(records))
    pending = (records[index] for part in todo for index in part)
    problems = list(listing.problems)
    with _checked(work, pending, workers) as results:
        for number, part in enumerate(parts):
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
            # Otherwise nothing will be kept, and the rest is only checked for more problems.
    nothing_left = all(part.shard is None for part in writer.finished.values())
    if nothing_left or (problems and not skip_invalid):
        raise DatasetError(_report(reader, problems, listing.notes))
    values = reader.values(records[0])
    contradictions = [palette_problem(writer.labels, values)]
    if not reader.states_ignored:
        contradictions.append(mask_problem(writer.labels, values, reader.classes))
    if any(contradictions):
        raise DatasetError(_report(reader, [each for each in contradictions if each]))
    notes = list(listing.notes)
    if writer.stored is not None:
        unusable = scale_problem(reader.image_reading, writer.stored)
        if unusable is not None:
            raise DatasetError(_report(reader, [unusable]))
        notes.append(scale_note(reader.image_reading, writer.stored))
    elif reader.image_reading.scale is not None:
        notes.append("scale is without effect: every image has 8 bits per value")
    return writer.finish(left_out=listing.problems, notes=notes)


def _shard_ranges(reader: Reader, records: list[Record]) -> list[range]:
    """Split the records into shards of about SHARD_BYTES, each of a single split."""
    parts: list[range] = []
    start, size = 0, 0
    for index, record in enumerate(records):
        if index > start and (size > SHARD_BYTES or record.split != records[start].split):
            parts.append(range(start, index))
            start, size = index, 0
        size += reader.bytes(record)
    return [*parts, range(start, len(records))]


def _existing(location: Location, recipe: str) -> Manifest | None:
    """Return the manifest at `location` if it has the same recipe; None if `location` is free.

    Raises DatasetError if it holds anything else.
    """
    sizes = location.sizes()
    if MANIFEST_NAME in sizes:
        file = location.file(MANIFEST_NAME)
        try:
            manifest = Manifest.from_json(location.read(MANIFEST_NAME).decode(), file)
        except (DatasetError, UnicodeDecodeError) as error:
            raise DatasetError(
                f"{location.uri}: already holds a data set that cannot be read ({error}, or choose "
                "another destination)"
            ) from error
        if manifest.recipe == recipe:
            return manifest
        raise DatasetError(
            f"{location.uri}: already holds the data set {manifest.name!r} "
            f"(fingerprint {manifest.fingerprint[:12]}), prepared from another source or with "
            "other options; choose another destination or delete it first"
        )
    # In an object store, an interrupted preparation leaves its shards and its journal here.
    resumable = not location.is_local and JOURNAL_NAME in sizes
    taken = location.is_local and location.directory.exists() and any(location.directory.iterdir())
    if taken or (sizes and not resumable):
        if any(name.endswith(".parquet") for name in sizes):
            raise DatasetError(
                f"{location.uri}: has shards but no {MANIFEST_NAME}; if it was a prepared data "
                "set, delete it and prepare it again; otherwise choose another destination"
            )
        raise DatasetError(
            f"{location.uri}: exists but is not a prepared data set; choose another destination"
        )
    return None


@contextmanager
def _storage_errors(location: Location) -> Iterator[None]:
    """Turn pyarrow's errors of reading and writing, which do not name a file, into DatasetError."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        if error.filename is not None:
            raise
        raise DatasetError(f"{location.uri}: cannot be prepared ({error})") from error


@contextmanager
def _lock(location: Location, waiting: Callable[[], None]) -> Iterator[None]:
    """Keep other processes on this machine from preparing the same destination."""
    path = _lock_file(location)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        waiting()
        lock.acquire()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # a process that waits for it then creates its own
        lock.release()


def _lock_file(location: Location) -> Path:
    """Return the lock's path: next to a local destination, which all users share, otherwise in the
    user's temporary directory."""
    if not location.is_local:
        user = os.path.expanduser("~")
        name = hashlib.sha256(f"{user}\n{location.uri}".encode()).hexdigest()[:16]
        return Path(gettempdir()) / f"prepare-{name}.lock"
    directory = location.directory
    if directory.is_file():
        raise DatasetError(f"{location.uri}: is a file; name a directory, which may be new")
    directory.parent.mkdir(parents=True, exist_ok=True)
    return directory.with_name(f".{directory.name}.lock")


@contextmanager
def _checked(
    work: Callable[[Record], CheckedSample], records: Iterable[Record], workers: int
) -> Iterator[Iterator[CheckedSample]]:
    """Provide `map(work, records)`, in order, in this process or in `workers` processes."""
    if workers <= 1:
        yield map(work, records)
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_exit_with_parent
    )
    try:
        yield _in_order(pool, work, records, workers * AHEAD)
    except BrokenProcessPool as error:
        raise WorkerKilledError(
            "a worker process was killed, probably for lack of memory; run the same command again "
            "with fewer --workers to resume after the last finished shard"
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


def _exit_with_parent() -> None:
    """In a worker process: exit when the parent process is killed, which Python does not do."""
    parent = parent_process()
    if parent is None:
        return

    def watch(sentinel: int) -> None:
        connection.wait([sentinel])
        _exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()


def _report(reader: Reader, problems: list[str], notes: Sequence[str] = ()) -> str:
    """Return a message that lists all problems, and the notes, which may explain them."""
    lines = [*problems, *(f"note: {note}" for note in notes)]
    return "\n  ".join(
        [f"{reader.name}: {counted(len(problems), 'problem')} in {reader.source}", *lines]
    )
