"""Opening a prepared data set: its manifest, its splits, and single decoded samples."""

from __future__ import annotations

import hashlib
import threading
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.data.image_io import Array, PictureError, decode_indices, decode_rgb
from pipelines.data.manifest import INDEX_NAME, MANIFEST_NAME, ClassInfo, DatasetError, Manifest
from pipelines.data.shards import PICTURES
from pipelines.data.storage import Location, locate

__all__ = [
    "IGNORE_INDEX",
    "ClassInfo",
    "DatasetError",
    "Manifest",
    "PreparedDataset",
    "Samples",
    "Split",
    "open_dataset",
    "split_parts",
]

IGNORE_INDEX = 255


class Samples(Protocol):
    """What the loaders need of a split: a `Split`, or a decoded copy of it."""

    identifiers: list[str]
    groups: list[str | None]
    heights: NDArray[np.int64]
    widths: NDArray[np.int64]

    @property
    def centroids(self) -> NDArray[np.int64]: ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]: ...


class Split:
    """The samples of one split, in the order of preparation.

    Safe to share between threads. `heights`, `widths`: int64 (samples,); `class_pixels`: int64
    (samples, classes); `centroids`: int64 (centroids, 4), columns sample, class, row, column.
    """

    def __init__(self, name: str, location: Location, index: pa.Table) -> None:
        self.name = name
        self._location = location
        self._index = index
        self._shards: list[str] = index["shard"].to_pylist()
        self._rows: list[int] = index["row"].to_pylist()
        # A Parquet reader must not be used by two threads at once, so each has its lock.
        self._files: dict[str, tuple[threading.Lock, pq.ParquetFile]] = {}
        self._opening = threading.Lock()
        self.identifiers: list[str] = index["identifier"].to_pylist()
        self.groups: list[str | None] = index["group"].to_pylist()
        self.heights: NDArray[np.int64] = index["height"].to_numpy().astype(np.int64)
        self.widths: NDArray[np.int64] = index["width"].to_numpy().astype(np.int64)
        self.class_pixels: NDArray[np.int64] = np.array(
            index["class_pixels"].to_pylist(), dtype=np.int64
        )

    def __len__(self) -> int:
        return len(self.identifiers)

    @cached_property
    def centroids(self) -> NDArray[np.int64]:
        rows = [
            (sample, each["class"], each["row"], each["column"])
            for sample, listed in enumerate(self._index["centroids"].to_pylist())
            for each in listed
        ]
        return np.array(rows, dtype=np.int64).reshape(-1, 4)

    def read(self, index: int) -> tuple[Array, Array]:
        """Decode sample `index`: image uint8 (height, width, 3), label uint8 (height, width).

        A sample without a label gets one that is ignored everywhere.

        Raises:
            DatasetError: the row is damaged; the message names the shard and the sample.
        """
        image, label = self.read_encoded(index)
        height, width = int(self.heights[index]), int(self.widths[index])
        where = self._where(index)
        try:
            pixels = decode_rgb(image)
            classes = (
                np.full((height, width), IGNORE_INDEX, np.uint8)
                if label is None
                else decode_indices(label)
            )
        except PictureError as error:
            raise DatasetError(f"{where}: {error}; prepare the data set again") from error
        if pixels.shape != (height, width, 3) or classes.shape != (height, width):
            raise DatasetError(
                f"{where}: image {pixels.shape[:2]} and label {classes.shape} where "
                f"{(height, width)} is recorded; prepare the data set again"
            )
        return pixels, classes

    def read_encoded(self, index: int) -> tuple[bytes, bytes | None]:
        """The stored bytes of image and label (None: unlabelled) of sample `index`.

        Raises:
            DatasetError: the row cannot be read; the message names the shard and the sample.
        """
        try:
            lock, file = self._open(self._shards[index])
            with lock:
                row = file.read_row_group(self._rows[index], list(PICTURES), use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(
                f"{self._where(index)} cannot be read ({error}); prepare the data set again"
            ) from error
        label = row["label"][0].as_py()
        return row["image"][0].as_py()["bytes"], None if label is None else label["bytes"]

    def _open(self, shard: str) -> tuple[threading.Lock, pq.ParquetFile]:
        with self._opening:
            if shard not in self._files:
                # Every page's checksum is compared, so that flipped bits do not train silently.
                file = pq.ParquetFile(self._location.open(shard), page_checksum_verification=True)
                self._files[shard] = threading.Lock(), file
            return self._files[shard]

    def _where(self, index: int) -> str:
        file = self._location.file(self._shards[index])
        return f"{file}: sample {self.identifiers[index]!r}"


class PreparedDataset:
    """A prepared data set: `.manifest`, and `.split(name)` for its samples."""

    def __init__(self, location: Location, manifest: Manifest) -> None:
        self.location = location
        self.manifest = manifest
        self._splits: dict[str, Split] = {}

    def split(self, name: str) -> Split:
        """The samples of split `name`, which must not be empty; `train+val` joins two, one after
        the other.

        Raises:
            DatasetError: no such split (the message lists those there are), or a damaged shard.
        """
        parts = split_parts(name)
        for part in parts:
            if not self.manifest.counts.get(part):
                there = ", ".join(f"{key} ({n})" for key, n in self.manifest.counts.items() if n)
                raise DatasetError(
                    f"{self.location.uri}: no samples in split {part!r}; it has {there or 'none'}"
                )
        if name not in self._splits:
            rows = [self._index.filter(pc.equal(self._index["split"], part)) for part in parts]
            self._splits[name] = Split(name, self.location, pa.concat_tables(rows))
        return self._splits[name]

    @cached_property
    def _index(self) -> pa.Table:
        data = self.location.read(INDEX_NAME)
        if hashlib.sha256(data).hexdigest() != self.manifest.index_sha256:
            raise DatasetError(
                f"{self.location.file(INDEX_NAME)}: damaged (its SHA-256 is not the manifest's); "
                "prepare the data set again"
            )
        return pq.read_table(pa.BufferReader(data)).combine_chunks()


def split_parts(name: str) -> tuple[str, ...]:
    """The splits that a name such as `train+val` joins."""
    return tuple(name.split("+"))


def open_dataset(uri: str | Path, fingerprint: str | None = None) -> PreparedDataset:
    """Open the data set that `pipelines.prepare` wrote to a directory or URI.

    Reads the manifest and compares the shards' sizes with it; pictures are read on demand.
    fingerprint: of the data set that was found there before.

    Raises:
        DatasetError: nothing there, no data set there, one that is half-written or damaged, or
            another one than before.
    """
    location = locate(uri)
    try:
        sizes = location.sizes()
        if MANIFEST_NAME not in sizes:
            raise DatasetError(_nothing_there(location, sizes))
        text = location.read(MANIFEST_NAME).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{location.uri}: cannot be read ({error})") from error
    manifest = Manifest.from_json(text, location.file(MANIFEST_NAME))
    if fingerprint not in (None, manifest.fingerprint):
        raise DatasetError(
            f"{location.uri}: holds another data set by now (fingerprint "
            f"{manifest.fingerprint[:12]}, {fingerprint[:12]} before); run the command again"
        )
    if INDEX_NAME not in sizes:
        raise DatasetError(f"{location.file(INDEX_NAME)}: missing; prepare the data set again")
    for shard in manifest.shards:
        if shard.file not in sizes:
            raise DatasetError(
                f"{location.file(shard.file)}: missing, although the manifest lists it; "
                "prepare the data set again"
            )
        if sizes[shard.file] != shard.bytes:
            raise DatasetError(
                f"{location.file(shard.file)}: damaged: {sizes[shard.file]} bytes where the "
                f"manifest says {shard.bytes}; prepare the data set again"
            )
    return PreparedDataset(location, manifest)


def _nothing_there(location: Location, sizes: dict[str, int]) -> str:
    advice = "`python -m pipelines.prepare --help` lists what can be prepared"
    if not location.exists():
        return f"{location.uri}: does not exist; {advice}"
    if any(name.endswith(".parquet") for name in sizes):
        return (
            f"{location.uri}: half-written (shards without {MANIFEST_NAME}); "
            "run its `python -m pipelines.prepare` command again"
        )
    return f"{location.uri}: holds no prepared data set (no {MANIFEST_NAME}); {advice}"
