"""The node cache: a split decoded once a node, memory-mapped by all trials and workers on it.

A training sample then costs the copy of its crop window instead of the decoding of a picture; the
copy comes from the page cache, which all processes share.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import threading
import warnings
import weakref
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from PIL import Image

from pipelines.data import image_io
from pipelines.data.dataset import PreparedDataset, Samples, Split, split_parts
from pipelines.data.files import sync_to_disk
from pipelines.data.prefetch import prefetch

# Of the file; a change makes old files unreadable, so it is part of their names.
VERSION = 1
# Left free on the disk, so that a cache never fills it.
MARGIN = 1 << 30
SCHEMA = pa.schema([("image", pa.large_binary()), ("label", pa.large_binary())])


@dataclass(frozen=True)
class NodeCache:
    """Decoded splits in `directory`, at most `capacity` bytes together (None: what the disk has).

    Safe to use from many processes at once: one builds, the others wait. What no process uses is
    evicted, the longest unused first, when room is needed.
    """

    directory: Path
    capacity: int | None = None

    def here(self) -> NodeCache:
        """The same, with a home directory in the path being that of this process."""
        return replace(self, directory=self.directory.expanduser())

    def decoded(self, dataset: PreparedDataset, name: str, threads: int = 2) -> Samples:
        """The decoded copy of a split, built on first use by `threads` threads; the split itself,
        with a warning, where there is no room for a copy.

        Raises:
            DatasetError: no such split, or a damaged sample in it.
        """
        split = dataset.split(name)
        parts = split_parts(name)
        if len(parts) > 1:  # each part's copy serves those who use it alone
            return JoinedSplit(split, [self.decoded(dataset, part, threads) for part in parts])
        size = int((split.heights * split.widths).sum()) * 4
        content = f"{dataset.manifest.fingerprint[:32]}-{name}"
        path = self.directory / f"{content}.{VERSION}.{_decoder()}.arrow"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            while True:
                found = DecodedSplit.open(path, split)
                if found is not None:
                    return found
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
        """Write the copy under the lock of `path`; False where there is no room for it."""
        # One at a time looks for room and fills it, so that two do not count on the same.
        with FileLock(self.directory / "room.lock"):
            path.with_name(f"{path.name}.partial").unlink(missing_ok=True)  # by a killed builder
            room = self._make_room(size)
            if room >= size:
                self._write(path, split, threads)
                return True
        warnings.warn(
            f"no node cache for split {split.name!r}: it needs {_amount(size)} and "
            f"{self.directory} has room for {_amount(max(0, room))}, with {_amount(MARGIN)} of the "
            "disk left free; decoding every sample each time, which is slower",
            stacklevel=4,
        )
        return False

    def _write(self, path: Path, split: Split, threads: int) -> None:
        partial = path.with_name(f"{path.name}.partial")
        try:
            with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
                for image, label in prefetch(
                    split.read, range(len(split)), threads, ahead=2 * threads
                ):
                    columns = [
                        pa.array([values.tobytes()], pa.large_binary()) for values in (image, label)
                    ]
                    writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
            sync_to_disk([partial])  # or zeros could stand in its place after a loss of power
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)

    def _make_room(self, size: int) -> int:
        """Evict what is unused until `size` bytes fit; returns the bytes there is room for."""
        for partial in self.directory.glob("*.arrow.partial"):
            # Whoever builds holds the lock; a killed builder of another split does not.
            with (
                suppress(Timeout),
                FileLock(partial.with_suffix("").with_suffix(".lock"), timeout=0),
            ):
                partial.unlink(missing_ok=True)
        copies = sorted(self._files("*.arrow"), key=lambda each: each[1].st_mtime)
        for path in [None, *(path for path, _ in copies)]:
            if path is not None:
                _evict(path)
            used = sum(stat.st_size for _, stat in self._files("*.arrow*"))
            free = shutil.disk_usage(self.directory).free - MARGIN
            room = free if self.capacity is None else min(free, self.capacity - used)
            if room >= size:
                break
        return room

    def _files(self, pattern: str) -> list[tuple[Path, os.stat_result]]:
        """Files with what is known of them; one that is removed meanwhile is not among them."""
        found = []
        for path in self.directory.glob(pattern):
            with suppress(FileNotFoundError):
                found.append((path, path.stat()))
        return found


class DecodedSplit:
    """A split whose samples are decoded; `read` returns views of the shared pages, not to be
    written to."""

    def __init__(self, split: Split, file: int, source: pa.MemoryMappedFile) -> None:
        self._split = split
        self._reader = pa.ipc.open_file(source)
        if self._reader.num_record_batches != len(split):
            raise pa.ArrowInvalid("other number of samples")
        self._reading = threading.Lock()
        self.identifiers = split.identifiers
        self.groups = split.groups
        self.heights = split.heights
        self.widths = split.widths
        self.class_pixels = split.class_pixels
        # The shared lock on `file` keeps the copy from eviction for as long as this object lives.
        weakref.finalize(self, os.close, file)

    @classmethod
    def open(cls, path: Path, split: Split) -> DecodedSplit | None:
        """Open and lock the copy at `path`; None where it is missing or damaged (and removed)."""
        try:
            file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH)
            if os.fstat(file).st_nlink == 0:  # evicted between opening and locking
                raise FileNotFoundError
            with suppress(OSError):  # another user's cache, or one that is mounted to be read only
                os.utime(path)
            return cls(split, file, pa.memory_map(str(path)))
        except (FileNotFoundError, pa.ArrowInvalid) as error:
            if isinstance(error, pa.ArrowInvalid):
                path.unlink(missing_ok=True)
            os.close(file)
            return None

    def __len__(self) -> int:
        return len(self._split)

    @cached_property
    def centroids(self) -> NDArray[np.int64]:
        return self._split.centroids

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image uint8 (height, width, 3) and label uint8 (height, width) of a sample, read-only."""
        with self._reading:
            batch = self._reader.get_batch(index)
        size = (int(self.heights[index]), int(self.widths[index]))
        image, label = (np.frombuffer(column.buffers()[2], np.uint8) for column in batch.columns)
        return image.reshape(*size, 3), label.reshape(size)


class JoinedSplit:
    """Splits one after the other, each read from its own copy. split: the same samples, undecoded,
    which knows everything about them but their pixels."""

    def __init__(self, split: Split, parts: Sequence[Samples]) -> None:
        self._split = split
        self._parts = parts
        self._starts = list(accumulate(map(len, parts), initial=0))
        self.identifiers = split.identifiers
        self.groups = split.groups
        self.heights = split.heights
        self.widths = split.widths
        self.class_pixels = split.class_pixels

    def __len__(self) -> int:
        return len(self._split)

    @property
    def centroids(self) -> NDArray[np.int64]:
        return self._split.centroids

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image uint8 (height, width, 3) and label uint8 (height, width) of a sample."""
        part = bisect_right(self._starts, index) - 1
        return self._parts[part].read(index - self._starts[part])


def _decoder() -> str:
    """What decodes the pictures: a copy that other code or another library made is another one."""
    source = Path(image_io.__file__).read_bytes()
    return hashlib.sha256(source + Image.__version__.encode()).hexdigest()[:8]


def _amount(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _evict(path: Path) -> None:
    """Remove a copy that no process has open."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # found damaged, and removed, by another process
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except BlockingIOError:
        pass
    finally:
        os.close(file)
