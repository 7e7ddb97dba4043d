"""Fetch published data sets from their owners; say how to get those that cannot be fetched."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from pipelines.data.download import DownloadError, Progress, digest, download
from pipelines.data.files import file_digest, write_text
from pipelines.errors import UserError
from pipelines.preparation.fetching.published_datasets import ARCHIVES, INSTRUCTIONS
from pipelines.preparation.fetching.unpacking import unpack
from pipelines.preparation.readers import READERS

# Called with the title of a step and the unit that it counts.
ShowProgress = Callable[[str, str], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class FetchedDataset:
    """A data set on disk; folder is the `--source` of its reader.

    archive: the downloaded file, or None if `folder` already existed. sha256: its digest.
    """

    folder: Path
    archive: Path | None = None
    sha256: str | None = None


def fetch(
    name: str, directory: Path, progress: ShowProgress, mirror: str | None = None
) -> FetchedDataset:
    """Download and unpack a data set below `directory`; do nothing if it is already there.

    An archive that is already there is used. Its SHA-256 is recorded in a file next to it, in the
    form that `sha256sum --check` reads, and compared with an existing record.

    progress: shows the progress of a step while its context is open.
    mirror: address of the archive to use instead of its owner's.

    Raises:
        UserError: the data set cannot be fetched (the message says where to get it), or the
            download or the archive fails.
    """
    if name in INSTRUCTIONS:
        raise UserError(
            f"{name} cannot be fetched: it {INSTRUCTIONS[name]}\nExpected: {READERS[name].help}\n"
            f"Then run: orchestrator prepare {name} --source FOLDER --destination DIR"
        )
    archive = ARCHIVES[name]
    if mirror == "":
        raise UserError("--mirror is empty; give the address of the archive, or leave it out")
    if str(directory).startswith(("s3:", "gs:", "http:", "https:", "file:")):
        raise UserError(f"--to {directory} is not a directory of this machine; name one")
    directory.mkdir(parents=True, exist_ok=True)
    folder, file = directory / archive.folder, directory / archive.file
    lock = directory / f".{archive.file}.lock"
    with FileLock(lock):
        try:
            if folder.exists():
                return FetchedDataset(folder)
            if not file.exists():
                with progress(f"downloading {name}", "bytes") as report:
                    download(mirror or archive.url, file, archive.checksum, report)
            sha256 = _checked_digest(file, archive.checksum)
            with progress(f"unpacking {name}", "files") as report:
                unpack(file, archive.folder, folder, report)
        finally:
            lock.unlink(missing_ok=True)  # a process that waits for it then creates its own
    return FetchedDataset(folder, file, sha256)


def _checked_digest(file: Path, checksum: str | None) -> str:
    """Compare an archive with its checksum and its recorded digest; record and return the digest.

    Raises DownloadError if they differ.
    """
    record = file.with_name(f"{file.name}.sha256")
    sha256 = file_digest(file)
    line = f"{sha256}  {file.name}\n"
    if record.exists():
        if record.read_text(encoding="utf-8") == line:
            return sha256
        raise DownloadError(
            f"{file}: its SHA-256 is {sha256}, which is not the one in {record.name}; delete both "
            "files to download it again"
        )
    if checksum is not None and digest(file, checksum.partition(":")[0]) != checksum:
        raise DownloadError(
            f"{file}: does not have the checksum {checksum}; delete it to download it again"
        )
    write_text(record, line)
    return sha256
