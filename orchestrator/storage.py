"""Storage of a command: files that every machine must reach, and files of this machine only."""

import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow.fs

from pipelines.data.storage import expand_home, join_uri, locate
from pipelines.errors import UserError
from pipelines.wording import option

# What every study writes to in its storage.
_WRITTEN = ("artifacts", "locks", "logs", "trials", "tune")
_LEDGER = ("mlflow.db", "mlflow.db.lock")  # unless a tracking server records
_LOCAL_ROOT = Path("~/.cache/segmentation-orchestrator-runs")


class StorageError(UserError, OSError):
    """The location given by `--storage` cannot be used; the message says why."""


@dataclass(frozen=True)
class Storage:
    """The location given by `--storage`.

    local: a directory of this machine for logs, Tune's own files, and the tracking store if it is a
    file. shared: a path or URI that every machine can reach, for checkpoints and data sets. Both
    are the same directory unless `--storage` is a URI.
    """

    local: Path
    shared: str

    @staticmethod
    def parse(text: str) -> "Storage":
        """Parse `--storage`: a directory, or a URI such as `s3://BUCKET/storage`."""
        if "://" not in text:
            directory = Path(text).expanduser().resolve()
            return Storage(directory, str(directory))
        name = re.sub(r"[^\w.-]+", "-", text.partition("?")[0])
        return Storage(expand_home(_LOCAL_ROOT) / name.strip("-"), text)

    def create(self, holds_ledger: bool = True) -> None:
        """Create the local directory. Raises StorageError if it, or something that an earlier
        command made in it, is not writable, or if the tracking store could not record its name.

        holds_ledger: whether the tracking store is a file in it.
        """
        if not _is_text(self.shared):
            raise StorageError(
                f"{option('storage')} {self.shared!a} is not valid UTF-8; choose a directory with "
                "another name"
            )
        try:
            self.local.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.local):
                pass
        except OSError as error:
            raise StorageError(
                f"{option('storage')} {self.local}: cannot be written ({error.strerror}); choose "
                "a directory that you can write to"
            ) from None
        written = _WRITTEN + _LEDGER * holds_ledger
        if refused := [name for name in written if _is_refused(self.local / name)]:
            raise StorageError(
                f"{option('storage')} {self.local}: you cannot write to {', '.join(refused)} in "
                "it; ask the owner for write permission on all of it, or choose a storage of your "
                "own"
            )

    def at(self, name: str) -> str:
        """Return the path or URI of `name` in the shared storage."""
        return join_uri(self.shared, name)

    @property
    def trials(self) -> str:
        """The path or URI of the folder with the checkpoints of all trials."""
        return self.at("trials")

    @property
    def is_remote(self) -> bool:
        """Whether it is a URI, which cannot hold a tracking store: that needs a tracking server."""
        return "://" in self.shared

    @property
    def free_bytes(self) -> int | None:
        """The free bytes of the directory's disk for this user; None for a URI."""
        try:
            return None if self.is_remote else shutil.disk_usage(self.local).free
        except OSError:
            return None

    def put(self, file: Path, name: str) -> str:
        """Move a local file to `name` in the shared storage; return its path or URI there."""
        target = self.at(name)
        if not self.is_remote:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
            return target
        location = locate(target)
        location.filesystem.create_dir(location.path.rpartition("/")[0])
        pyarrow.fs.copy_files(
            str(file), location.path, pyarrow.fs.LocalFileSystem(), location.filesystem
        )
        file.unlink()
        return target


def unique_name() -> str:
    """Return a name that no other command takes, on whatever host or in whatever container; names
    sort by their time."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}"


def _is_refused(path: Path) -> bool:
    """Whether an existing file or folder may not be written."""
    if not path.exists():
        return False
    mode = os.W_OK | os.X_OK if path.is_dir() else os.W_OK
    return not os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _is_text(name: str) -> bool:
    """Whether a name can be encoded; Python decodes other bytes of a file name to surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def local_copy(path: str, only: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a directory, given as a path or URI, as a local one: itself, or a temporary copy.

    only: names of the files and folders to copy; empty copies everything. Raises OSError if the
    directory cannot be read.
    """
    if "://" not in path:
        yield Path(path)
        return
    location = locate(path)
    with tempfile.TemporaryDirectory(prefix="copy-") as temporary:
        copy = partial(
            pyarrow.fs.copy_files,
            source_filesystem=location.filesystem,
            destination_filesystem=pyarrow.fs.LocalFileSystem(),
        )
        if not only:
            copy(location.path, temporary)
        for name in only:
            source = location.filesystem.get_file_info(location.file(name))
            if source.type == pyarrow.fs.FileType.Directory:
                (Path(temporary) / name).mkdir()  # `copy_files` only creates nested directories
            copy(source.path, f"{temporary}/{name}")
        yield Path(temporary)
