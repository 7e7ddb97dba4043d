"""Splits whose samples are decoded: a copy in shared memory, and splits composed of such copies."""

from __future__ import annotations

import fcntl
import os
import threading
import weakref
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.data.dataset import Samples, Split
from pipelines.data.image_format import Pixels


class _View:
    """Everything of an encoded split except its pixels."""

    def __init__(self, split: Split) -> None:
        self._split = split
        self.identifiers = split.identifiers
        self.groups = split.groups
        self.heights = split.heights
        self.widths = split.widths
        self.class_pixels = split.class_pixels
        self.image_format = split.image_format

    def __len__(self) -> int:
        return len(self._split)

    @cached_property
    def centroids(self) -> NDArray[np.int64]:
        return self._split.centroids


class DecodedSplit(_View):
    """A split with decoded samples; `read` returns read-only views of the shared memory."""

    def __init__(self, split: Split, file: int, source: pa.MemoryMappedFile) -> None:
        super().__init__(split)
        self._reader = pa.ipc.open_file(source)
        if self._reader.num_record_batches != len(split):
            raise pa.ArrowInvalid("the number of samples differs")
        self._reading = threading.Lock()
        # The shared lock on `file` prevents eviction while this object exists.
        weakref.finalize(self, os.close, file)

    @classmethod
    def open(cls, path: Path, split: Split) -> DecodedSplit | None:
        """Open and lock the copy at `path`; None if it is missing, or damaged and now deleted."""
        try:
            file = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH)
            if os.fstat(file).st_nlink == 0:  # evicted between opening and locking
                raise FileNotFoundError
            with suppress(OSError):  # another user's cache, or a read-only mount
                os.utime(path)
            return cls(split, file, pa.memory_map(str(path)))
        except (FileNotFoundError, pa.ArrowInvalid) as error:
            if isinstance(error, pa.ArrowInvalid):
                path.unlink(missing_ok=True)
            os.close(file)
            return None

    def read(self, index: int) -> tuple[Pixels, NDArray[np.uint8]]:
        """Return image (height, width, channels) and label uint8 (height, width), both
        read-only."""
        with self._reading:
            batch = self._reader.get_batch(index)
        size = (int(self.heights[index]), int(self.widths[index]))
        dtypes = (self.image_format.dtype, np.dtype(np.uint8))
        image, label = (
            np.frombuffer(column.buffers()[2], dtype)
            for column, dtype in zip(batch.columns, dtypes, strict=True)
        )
        return image.reshape(*size, self.image_format.channels), label.reshape(size)


class JoinedSplit(_View):
    """Concatenated splits, each read from its own copy.

    split: the same samples, encoded.
    """

    def __init__(self, split: Split, parts: Sequence[Samples]) -> None:
        super().__init__(split)
        self._parts = parts
        self._starts = list(accumulate(map(len, parts), initial=0))

    def read(self, index: int) -> tuple[Pixels, NDArray[np.uint8]]:
        """Return image (height, width, channels) and label uint8 (height, width) of a sample."""
        part = bisect_right(self._starts, index) - 1
        return self._parts[part].read(index - self._starts[part])


class SelectedSplit(_View):
    """Some samples of a split, read from the copy of the whole split.

    split: the same samples, encoded. whole: all samples. rows: the index of each sample in `whole`.
    """

    def __init__(self, split: Split, whole: Samples, rows: Sequence[int]) -> None:
        super().__init__(split)
        self._whole = whole
        self._rows = rows

    def read(self, index: int) -> tuple[Pixels, NDArray[np.uint8]]:
        """Return image (height, width, channels) and label uint8 (height, width) of a sample."""
        return self._whole.read(self._rows[index])
