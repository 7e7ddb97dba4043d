"""The node cache: splits decoded once per node and memory-mapped by all its trials and workers.

A training sample then costs a copy of its crop window, from the page cache that all processes
share, instead of the decoding of an image.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from filelock import FileLock, Timeout
from PIL import Image

from pipelines.data import image_io
from pipelines.data.dataset import PreparedDataset, Samples, Split
from pipelines.data.decoded_split import DecodedSplit, JoinedSplit, SelectedSplit
from pipelines.data.files import PARTIAL, atomic_file, partial_path
from pipelines.data.prefetch import prefetch
from pipelines.data.split_names import parse_fold, split_parts
from pipelines.data.storage import expand_home

# Format version of the files; part of their names, because older files are unreadable.
VERSION = 1
# Bytes that a cache leaves free on the disk.
MARGIN = 1 << 30
SCHEMA = pa.schema([("image", pa.large_binary()), ("label", pa.large_binary())])


@dataclass(frozen=True)
class NodeCache:
    """Decoded splits in `directory`, limited to `capacity` bytes (None: the free disk space).

    Safe to use from many processes at once: one process builds a copy while the others wait. When
    space is needed, copies that no process uses are evicted, least recently used first.
    """

    directory: Path
    capacity: int | None = None

    def expanded(self) -> NodeCache:
        """Return the cache with `~` in its path expanded to this process's home directory."""
        return replace(self, directory=expand_home(self.directory))

    def decoded(self, dataset: PreparedDataset, name: str, threads: int = 2) -> Samples:
        """Return the decoded copy of a split; build it with `threads` threads if it is missing.

        Without space for a copy, warn and return the split itself.

        Raises:
            DatasetError: the split is missing, or a sample in it is damaged.
        """
        split = dataset.split(name)
        fold = parse_fold(name)
        if fold is not None:  # one copy of the whole split for all folds
            whole = self.decoded(dataset, fold.split, threads)
            return SelectedSplit(split, whole, dataset.rows_of(fold))
        parts = split_parts(name)
        if len(parts) > 1:  # one copy per part, which is also used for the part alone
            return JoinedSplit(split, [self.decoded(dataset, part, threads) for part in parts])
        # The channels of the image, and the label.
        image_format = split.image_format
        per_pixel = image_format.channels * image_format.dtype.itemsize + 1
        size = int((split.heights * split.widths).sum()) * per_pixel
        content = f"{dataset.manifest.fingerprint[:32]}-{name}"
        path = self.directory / f"{content}.{VERSION}.{_decoder()}.arrow"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            while True:
                decoded = DecodedSplit.open(path, split)
                if decoded is not None:
                    return decoded
                with FileLock(path.with_suffix(".lock")):
                    if not path.exists() and not self._build(path, split, size, threads):
                        return split
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
                raise
            warnings.warn(
                f"no node cache in {self.directory} ({error.strerror}); decoding every sample "
                "each time, which is slower",
                stacklevel=2,
            )
            return split

    def _build(self, path: Path, split: Split, size: int, threads: int) -> bool:
        """Write the copy, holding the lock of `path`; return False if there is no space for it."""
        # One process at a time, so that two builders do not count on the same free space.
        with FileLock(self.directory / "room.lock"):
            partial_path(path).unlink(missing_ok=True)  # left by a killed builder
            available = self._make_room(size)
            if available >= size:
                self._write(path, split, threads)
                return True
        warnings.warn(
            f"no node cache for split {split.name!r}: it needs {_format_bytes(size)}, but "
            f"{self.directory} has room for {_format_bytes(max(0, available))} with "
            f"{_format_bytes(MARGIN)} of the disk left free; decoding every sample each time, "
            "which is slower",
            stacklevel=4,
        )
        return False

    def _write(self, path: Path, split: Split, threads: int) -> None:
        samples = prefetch(split.read, range(len(split)), threads, ahead=2 * threads)
        with (
            atomic_file(path) as partial,
            pa.OSFile(str(partial), "wb") as sink,
            pa.ipc.new_file(sink, SCHEMA) as writer,
        ):
            for image, label in samples:
                columns = [
                    pa.array([values.tobytes()], pa.large_binary()) for values in (image, label)
                ]
                writer.write_batch(pa.record_batch(columns, schema=SCHEMA))

    def _make_room(self, size: int) -> int:
        """Evict unused copies until `size` bytes fit; return the available bytes."""
        for partial in self.directory.glob(f"*.arrow{PARTIAL}"):
            # A running builder holds the lock; a killed one does not.
            with (
                suppress(Timeout),
                FileLock(partial.with_suffix("").with_suffix(".lock"), timeout=0),
            ):
                partial.unlink(missing_ok=True)
        copies = sorted(self._files("*.arrow"), key=lambda copy: copy[1].st_mtime)
        for path in [None, *(path for path, _ in copies)]:
            if path is not None:
                _evict(path)
            used = sum(stat.st_size for _, stat in self._files("*.arrow*"))
            free = shutil.disk_usage(self.directory).free - MARGIN
            available = free if self.capacity is None else min(free, self.capacity - used)
            if available >= size:
                break
        return available

    def _files(self, pattern: str) -> list[tuple[Path, os.stat_result]]:
        """Return the matching files and their status; skip files that are deleted meanwhile."""
        files = []
        for path in self.directory.glob(pattern):
            with suppress(FileNotFoundError):
                files.append((path, path.stat()))
        return files


def _decoder() -> str:
    """Return a hash of the decoding code and library, which decide the content of a copy."""
    source = Path(image_io.__file__).read_bytes()
    return hashlib.sha256(source + Image.__version__.encode()).hexdigest()[:8]


def _format_bytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _evict(path: Path) -> None:
    """Delete a copy unless a process has it open."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # deleted by another process because it was damaged
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except BlockingIOError:
        pass
    finally:
        os.close(file)
