"""Where a command keeps things: what every machine must see, and what only this one needs."""

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow.fs

from pipelines.data.storage import join_uri, locate
from pipelines.errors import UserError

_HERE = Path("~/.cache/segmentation-orchestrator-runs")


class StorageError(UserError, OSError):
    """The place that `--storage` names cannot be used; the message says why."""


@dataclass(frozen=True)
class Storage:
    """The place that `--storage` names.

    here: a directory of this machine: logs, Tune's own files, and the ledger where it is a file.
    shared: a path or URI that every machine sees: checkpoints and data sets. Both are the same
    directory unless `--storage` is a URI.
    """

    here: Path
    shared: str

    @staticmethod
    def of(text: str) -> "Storage":
        """Understand `--storage`: a directory, or a URI such as `s3://BUCKET/storage`."""
        if "://" not in text:
            directory = Path(text).expanduser().resolve()
            return Storage(directory, str(directory))
        name = re.sub(r"[^\w.-]+", "-", text.partition("?")[0])
        return Storage(_HERE.expanduser() / name.strip("-"), text)

    def make(self) -> None:
        """Make the directory of this machine. Raises StorageError where that cannot be written."""
        try:
            self.here.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.here):
                pass
        except OSError as error:
            raise StorageError(
                f"--storage {self.here}: cannot be written ({error.strerror}); name a directory of "
                "your own"
            ) from None

    def at(self, name: str) -> str:
        """The path or URI of `name` in the shared place."""
        return join_uri(self.shared, name)

    @property
    def is_remote(self) -> bool:
        """Whether it is a URI, which holds no ledger: that needs a tracking server."""
        return "://" in self.shared

    def keep(self, file: Path, name: str) -> str:
        """Move a file of this machine to `name` in the shared place; returns where it is now."""
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


@contextmanager
def on_this_machine(place: str, only: Sequence[str] = ()) -> Iterator[Path]:
    """A directory by path or URI, as a local one: itself, or a copy for as long as it is needed.

    only: the files and folders of it that are needed, by name; all of it for none. Raises OSError
    where it cannot be read.
    """
    if "://" not in place:
        yield Path(place)
        return
    location = locate(place)
    with tempfile.TemporaryDirectory(prefix="copy-") as temporary:
        copy = partial(
            pyarrow.fs.copy_files,
            source_filesystem=location.filesystem,
            destination_filesystem=pyarrow.fs.LocalFileSystem(),
        )
        if not only:
            copy(location.path, temporary)
        for name in only:
            found = location.filesystem.get_file_info(location.file(name))
            if found.type == pyarrow.fs.FileType.Directory:
                (Path(temporary) / name).mkdir()  # `copy_files` makes those inside it only
            copy(found.path, f"{temporary}/{name}")
        yield Path(temporary)
