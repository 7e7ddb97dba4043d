"""Opening a prepared data set: its manifest, its splits, and single decoded samples."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.imaging import Array, PictureError, decode_indices, decode_rgb
from pipelines.manifest import MANIFEST_NAME, ClassInfo, DatasetError, Manifest, Shard
from pipelines.shards import PICTURES
from pipelines.storage import Location, locate

__all__ = [
    "IGNORE_INDEX",
    "ClassInfo",
    "DatasetError",
    "Manifest",
    "PreparedDataset",
    "Split",
    "open_dataset",
]

IGNORE_INDEX = 255


@dataclass(frozen=True)
class _Row:
    """Where a sample's pictures lie: shard, row group in it, row in the group."""

    shard: Shard
    row_group: int
    row: int


class Split:
    """The samples of one split, in the order of preparation.

    Safe to share between threads. `heights`, `widths`: int64 (samples,); `class_pixels`: int64
    (samples, classes); `centroids`: int64 (centroids, 4), columns sample, class, row, column.
    """

    def __init__(self, name: str, location: Location, shards: tuple[Shard, ...]) -> None:
        self.name = name
        self._location = location
        self._rows: list[_Row] = []
        # A Parquet reader must not be used by two threads at once, so each has its lock.
        self._files: dict[str, tuple[threading.Lock, pq.ParquetFile]] = {}
        self._opening = threading.Lock()
        described = [self._describe(shard) for shard in shards]
        table = pa.concat_tables(described).combine_chunks()
        self.identifiers: list[str] = table["identifier"].to_pylist()
        self.groups: list[str | None] = table["group"].to_pylist()
        self.heights: NDArray[np.int64] = table["height"].to_numpy().astype(np.int64)
        self.widths: NDArray[np.int64] = table["width"].to_numpy().astype(np.int64)
        self.class_pixels: NDArray[np.int64] = np.array(
            table["class_pixels"].to_pylist(), dtype=np.int64
        )
        self._table = table

    def __len__(self) -> int:
        return len(self.identifiers)

    @cached_property
    def centroids(self) -> NDArray[np.int64]:
        rows = [
            (sample, each["class"], each["row"], each["column"])
            for sample, listed in enumerate(self._table["centroids"].to_pylist())
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
        where = f"{self._where(self._rows[index].shard)}: sample {self.identifiers[index]!r}"
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
        place = self._rows[index]
        try:
            lock, file = self._open(place.shard)
            with lock:
                group = file.read_row_group(place.row_group, list(PICTURES), use_threads=False)
            return group["image"][place.row].as_py(), group["label"][place.row].as_py()
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(
                f"{self._where(place.shard)}: sample {self.identifiers[index]!r} cannot be read "
                f"({error}); prepare the data set again"
            ) from error

    def _describe(self, shard: Shard) -> pa.Table:
        columns = ["identifier", "group", "height", "width", "class_pixels", "centroids"]
        try:
            _, file = self._open(shard)
            table = file.read(columns=columns)
            groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(
                f"{self._where(shard)}: damaged ({error}); prepare the data set again"
            ) from error
        for group, rows in enumerate(groups):
            self._rows += [_Row(shard, group, row) for row in range(rows)]
        return table

    def _open(self, shard: Shard) -> tuple[threading.Lock, pq.ParquetFile]:
        with self._opening:
            if shard.file not in self._files:
                # Every page's checksum is compared, so that flipped bits do not train silently.
                file = pq.ParquetFile(
                    self._location.open(shard.file), page_checksum_verification=True
                )
                self._files[shard.file] = threading.Lock(), file
            return self._files[shard.file]

    def _where(self, shard: Shard) -> str:
        return self._location.file(shard.file)


class PreparedDataset:
    """A prepared data set: `.manifest`, and `.split(name)` for its samples."""

    def __init__(self, location: Location, manifest: Manifest) -> None:
        self.location = location
        self.manifest = manifest
        self._splits: dict[str, Split] = {}

    def split(self, name: str) -> Split:
        """The samples of split `name`, which must not be empty.

        Raises:
            DatasetError: no such split (the message lists those there are), or a damaged shard.
        """
        if not self.manifest.counts.get(name):
            there = ", ".join(f"{key} ({n})" for key, n in self.manifest.counts.items() if n)
            raise DatasetError(
                f"{self.location.uri}: no samples in split {name!r}; it has {there or 'none'}"
            )
        if name not in self._splits:
            shards = tuple(each for each in self.manifest.shards if each.split == name)
            self._splits[name] = Split(name, self.location, shards)
        return self._splits[name]


def open_dataset(uri: str | Path) -> PreparedDataset:
    """Open the data set that `pipelines.prepare` wrote to a directory or URI.

    Reads the manifest and compares the shards' sizes with it; pictures are read on demand.

    Raises:
        DatasetError: nothing there, no data set there, one that is half-written or damaged.
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
