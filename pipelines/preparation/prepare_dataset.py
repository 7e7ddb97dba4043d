"""Check a source and write it as a prepared data set: in parallel, resumable, atomic."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path

from pipelines.data.facts import check_classes_occur
from pipelines.data.manifest import VERSION, DatasetError, Manifest
from pipelines.data.storage import locate
from pipelines.preparation.checking import TILE, CheckedSample, check
from pipelines.preparation.destination import (
    check_outside,
    check_replaceable,
    existing_manifest,
    lock_destination,
    storage_errors,
    without_links,
)
from pipelines.preparation.images.files import is_text, not_text
from pipelines.preparation.images.reading import scale_note, scale_problem
from pipelines.preparation.labels.forms import mask_problem, palette_problem
from pipelines.preparation.readers.own_reader import check_description, own_recipe
from pipelines.preparation.readers.reader import Listing, Reader, Record, duplicates
from pipelines.preparation.survey import survey
from pipelines.preparation.worker_pool import Work, checked_samples
from pipelines.preparation.writing import Writer, staging_location
from pipelines.wording import counted

SHARD_BYTES = 128 << 20
#: Splits that a training reads by default.
NEEDED_SPLITS = frozenset(("train", "val"))

Progress = Callable[[int, int], None]


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
        DatasetError: invalid samples (the message lists all), no valid sample in a split for
            training, labels with a single class, no source, another data set at `destination`, or
            a destination that cannot be written.
        UserError: the user's own reader fails, or cannot be sent to a worker process.
        WorkerKilledError: a worker process was killed.
    """
    for path in (reader.source, destination):
        if not is_text(str(path)):
            raise DatasetError(not_text(path))
    location = without_links(locate(destination))
    if not reader.source.is_dir():
        raise DatasetError(f"{reader.source}: no such directory")
    listing = reader.listing()
    check_description(reader, listing)
    if not listing.records:
        raise DatasetError(
            _report(reader, listing.problems or [f"has no samples; expected {reader.help}"])
        )
    if location.is_local and reader.has_files:
        check_outside(location.directory, listing)
    recipe = recipe_digest(reader, listing, skip_invalid)
    splits = listing.splits.union(record.split for record in listing.records)
    with storage_errors(location), lock_destination(location, waiting):
        existing = existing_manifest(location, recipe)
        if existing is not None:
            check_classes_occur(existing, location.uri)
            return existing
        check_replaceable(location)
        listing, reading = survey(reader, listing)
        if not listing.records:
            raise DatasetError(_report(reader, listing.problems))
        staging = staging_location(location)
        writer = Writer(reader, staging, recipe)
        work = partial(check, repeated=duplicates(listing.records), reading=reading)
        try:
            manifest = _write(reader, listing, writer, work, workers, skip_invalid, progress)
            manifest = _without_empty(reader, manifest, splits)
            check_classes_occur(manifest, str(reader.source))
        except DatasetError:
            writer.discard()
            raise
        writer.commit(manifest, location)
        return manifest


def recipe_digest(reader: Reader, listing: Listing, skip_invalid: bool) -> str:
    """Return a digest of all that decides the result: source files, reader, options, format."""
    classes = [asdict(each) for each in reader.classes]
    described = [VERSION, reader.version, skip_invalid, TILE, classes, listing.problems]
    described += own_recipe(reader)
    digest = hashlib.sha256(json.dumps(described).encode())
    for record in listing.records:
        line = f"{record.split}\n{record.identifier}\n{record.group}\n{reader.stamp(record)}\n"
        digest.update(line.encode())
    return digest.hexdigest()


def _write(
    reader: Reader,
    listing: Listing,
    writer: Writer,
    work: Work,
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
    with checked_samples(work, reader, pending, workers) as results:
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
    contradictions = [palette_problem(writer.labels, values, reader.label_advice)]
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


def _without_empty(reader: Reader, manifest: Manifest, splits: Collection[str]) -> Manifest:
    """Return the manifest with a note on each split without a sample.

    splits: of the source.

    Raises:
        DatasetError: one of them is needed for a training.
    """
    empty = sorted(set(splits) - manifest.counts.keys())
    notes = [f"{split}: no sample is left" for split in empty]
    if not NEEDED_SPLITS.isdisjoint(empty):
        raise DatasetError(_report(reader, [*manifest.skipped, *notes]))
    return replace(manifest, notes=(*manifest.notes, *notes))


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


def _report(reader: Reader, problems: list[str], notes: Sequence[str] = ()) -> str:
    """Return a message that lists all problems, and the notes, which may explain them."""
    lines = [*problems, *(f"note: {note}" for note in notes)]
    return "\n  ".join(
        [f"{reader.name}: {counted(len(problems), 'problem')} in {reader.source}", *lines]
    )
