"""Unpack one folder of a zip or tar archive: nothing outside it, and whole or not at all."""

from __future__ import annotations

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO

from pipelines.data.files import atomic_directory
from pipelines.errors import UserError

Progress = Callable[[int, int], None]


class ArchiveError(UserError):
    """An archive that cannot be unpacked; the message names the file and the reason."""


@dataclass(frozen=True)
class _Member:
    """A file of an archive; is_file is False for links and devices."""

    path: str
    is_file: bool
    open: Callable[[], IO[bytes] | None]


def unpack(
    archive: Path,
    folder: str,
    destination: Path,
    progress: Progress = lambda done, total: None,
) -> None:
    """Unpack the archive's folder `folder` to `destination`.

    `folder` may be within another folder, as in the archives of GitHub; files outside it are left
    out. `destination` appears when it is complete.

    progress: called with the files done and the total.

    Raises:
        ArchiveError: not a zip or tar archive, damaged, encrypted or compressed in an
            unsupported way, without `folder`, with a path that leads
            outside it, or with links in it; or the disk is full.
    """
    try:
        with _members(archive) as members:
            chosen = [
                (path, member)
                for member in members
                if (path := _path_within(archive, member.path, folder)) is not None
            ]
            if not chosen:
                raise ArchiveError(
                    f"{archive}: holds no folder {folder}; delete it and download another archive"
                )
            with atomic_directory(destination) as root:
                for done, (path, member) in enumerate(chosen, start=1):
                    _write(archive, member, root / path)
                    progress(done, len(chosen))
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError, EOFError) as error:
        raise ArchiveError(
            f"{archive}: is damaged ({error}); delete it and download it again"
        ) from error
    except RuntimeError as error:  # of zipfile: a password, or an unknown compression
        raise ArchiveError(
            f"{archive}: cannot be read by Python ({error}); unpack it with another program"
        ) from error
    except OSError as error:
        if error.filename is not None:
            raise
        raise ArchiveError(
            f"{archive}: cannot be unpacked to {destination} ({error.strerror or error})"
        ) from error


@contextmanager
def _members(archive: Path) -> Iterator[list[_Member]]:
    """Open an archive and provide its files, without folders."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            yield [
                _Member(
                    entry.filename,
                    not stat.S_ISLNK(entry.external_attr >> 16),
                    partial(packed.open, entry),
                )
                for entry in packed.infolist()
                if not entry.is_dir()
            ]
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tape:
            yield [
                _Member(
                    entry.name,
                    entry.isfile(),
                    partial(tape.extractfile, entry),
                )
                for entry in tape
                if not entry.isdir()
            ]
    else:
        raise ArchiveError(
            f"{archive}: is neither a zip nor a tar archive; delete it and download it again"
        )


def _path_within(archive: Path, name: str, folder: str) -> PurePosixPath | None:
    """Return the path of a file relative to `folder`; None if it is elsewhere in the archive."""
    path = PurePosixPath(name.replace("\\", "/"))
    drive = any(":" in part for part in path.parts[:1])
    if path.is_absolute() or drive or ".." in path.parts or "\0" in name:
        raise ArchiveError(
            f"{archive}: holds {name!r}, which would be written outside the folder; delete it "
            "and download another archive"
        )
    parents = path.parts[:2]
    if folder not in parents:
        return None
    rest = path.parts[parents.index(folder) + 1 :]
    return PurePosixPath(*rest) if rest else None


def _write(archive: Path, member: _Member, target: Path) -> None:
    source = member.open() if member.is_file else None
    if source is None:
        raise ArchiveError(
            f"{archive}: holds {member.path!r}, which is a link or a device; delete it and "
            "download another archive"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with source, target.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
