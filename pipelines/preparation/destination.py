"""The destination of a prepared data set: what may be replaced there, and who may write."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir

from filelock import FileLock, Timeout

from pipelines.data.manifest import JOURNAL_NAME, MANIFEST_NAME, DatasetError, Manifest
from pipelines.data.storage import Location
from pipelines.errors import UserError
from pipelines.preparation.readers.reader import Listing


def without_links(location: Location) -> Location:
    """Return a local location without symbolic links, which a folder cannot be renamed to."""
    if not location.is_local:
        return location
    return replace(location, path=str(location.directory.resolve()))


def check_replaceable(location: Location) -> None:
    """Check that a folder can be renamed to the destination.

    Raises:
        DatasetError: it is a mount point.
    """
    if location.is_local and os.path.ismount(location.directory):
        raise DatasetError(
            f"{location.uri}: is a mount point, which cannot be replaced by the finished data set; "
            "name a new folder in it"
        )


def check_outside(destination: Path, listing: Listing) -> None:
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


def existing_manifest(location: Location, recipe: str) -> Manifest | None:
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
            "other options, or by a reader that has changed since; choose another destination or "
            "delete it first"
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
def storage_errors(location: Location) -> Iterator[None]:
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
def lock_destination(location: Location, waiting: Callable[[], None]) -> Iterator[None]:
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
