"""Files on disk: digests, and atomic writes.

Files, directories and links appear under their names only when complete: everything is written to a
temporary name in the same directory, which ends in `PARTIAL`, and then renamed. A killed process
can leave a temporary name behind, never an incomplete target.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"


def partial_path(path: Path) -> Path:
    """Return the temporary name of `path`."""
    return path.with_name(path.name + PARTIAL)


@contextmanager
def atomic_file(path: Path, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path to write to; rename it to `path` on success, delete it on an error.

    sync: wait for the disk before renaming, so that the file is complete even after a power loss.
    """
    partial = partial_path(path)
    try:
        yield partial
        if sync:
            sync_to_disk([partial])
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, sync: bool = True) -> None:
    """Write or replace a file atomically, as UTF-8."""
    with atomic_file(path, sync) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield an empty temporary directory to fill; sync it to disk and rename it to `path`.

    After an error, the temporary directory remains until the next attempt. `path` must not exist,
    or must be an empty directory.
    """
    partial = partial_path(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    sync_to_disk([*partial.iterdir(), partial])
    os.rename(partial, path)
    sync_to_disk([path.parent])


def replace_symlink(link: Path, target: Path) -> None:
    """Create or replace a symbolic link atomically."""
    partial = partial_path(link)
    partial.unlink(missing_ok=True)
    partial.symlink_to(target)
    os.replace(partial, link)
    sync_to_disk([link.parent])


def remove_directory(path: Path) -> None:
    """Remove a directory; it disappears from its name before its content is deleted."""
    partial = partial_path(path)
    os.rename(path, partial)
    shutil.rmtree(partial)


def sync_to_disk(paths: Iterable[Path]) -> None:
    """Wait until the contents of files, or the entries of directories, are on disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Return the digest of a file in hexadecimal. algorithm: as `hashlib` names it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
