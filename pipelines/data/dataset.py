"""Opens a prepared data set and reads its manifest, splits and samples."""

from __future__ import annotations

import difflib
import hashlib
import shlex
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.data.folds import fold_rows
from pipelines.data.image_format import RGB, ImageFormat, Pixels
from pipelines.data.image_io import (
    Array,
    ImageError,
    decode_channels,
    decode_indices,
    decode_rgb,
)
from pipelines.data.manifest import (
    DESCRIPTION_NAME,
    INDEX_NAME,
    JOURNAL_NAME,
    MANIFEST_NAME,
    ClassInfo,
    DatasetError,
    Manifest,
)
from pipelines.data.shards import IMAGE_COLUMNS, IMAGE_DIGEST
from pipelines.data.split_names import FoldName, parse_fold, split_parts
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
]

IGNORE_INDEX = 255


class Samples(Protocol):
    """The interface of a split for the loaders: a `Split` or a decoded copy of it."""

    identifiers: list[str]
    groups: list[str | None]
    heights: NDArray[np.int64]
    widths: NDArray[np.int64]
    image_format: ImageFormat

    @property
    def centroids(self) -> NDArray[np.int64]: ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[Pixels, NDArray[np.uint8]]: ...


class Split:
    """The samples of one split, in the order of preparation. Thread-safe.

    `heights`, `widths`: int64 (samples,); `class_pixels`: int64 (samples, classes); `centroids`:
    int64 (centroids, 4), columns sample, class, row, column. `image_digests`: a hash of each
    image's pixels.
    """

    def __init__(
        self, name: str, location: Location, index: pa.Table, image_format: ImageFormat = RGB
    ) -> None:
        self.name = name
        self.image_format = image_format
        self._location = location
        self._index = index
        self._shards: list[str] = index["shard"].to_pylist()
        self._rows: list[int] = index["row"].to_pylist()
        # A Parquet reader is not thread-safe, so each has a lock.
        self._files: dict[str, tuple[threading.Lock, pq.ParquetFile]] = {}
        self._opening = threading.Lock()
        self.identifiers: list[str] = index["identifier"].to_pylist()
        self.groups: list[str | None] = index["group"].to_pylist()
        self.heights: NDArray[np.int64] = index["height"].to_numpy().astype(np.int64)
        self.widths: NDArray[np.int64] = index["width"].to_numpy().astype(np.int64)
        self.class_pixels: NDArray[np.int64] = np.array(
            index["class_pixels"].to_pylist(), dtype=np.int64
        )
        self.image_digests: list[str] = index[IMAGE_DIGEST].to_pylist()

    def __len__(self) -> int:
        return len(self.identifiers)

    @cached_property
    def centroids(self) -> NDArray[np.int64]:
        rows = [
            (sample, centroid["class"], centroid["row"], centroid["column"])
            for sample, centroids in enumerate(self._index["centroids"].to_pylist())
            for centroid in centroids
        ]
        return np.array(rows, dtype=np.int64).reshape(-1, 4)

    def select(self, name: str, rows: Sequence[int]) -> Split:
        """Return the split `name` of the samples at `rows`, in this order."""
        return Split(name, self._location, self._index.take(rows), self.image_format)

    def read(self, index: int) -> tuple[Pixels, Array]:
        """Decode sample `index`: image (height, width, channels) of the data set's format, label
        uint8 (height, width).

        All pixels of an unlabeled sample are ignored.

        Raises:
            DatasetError: the row is damaged; the message names the shard and the sample.
        """
        encoded_image, encoded_label = self.read_encoded(index)
        height, width = int(self.heights[index]), int(self.widths[index])
        sample = self._describe(index)
        try:
            image = self._decode(encoded_image)
            label = (
                np.full((height, width), IGNORE_INDEX, np.uint8)
                if encoded_label is None
                else decode_indices(encoded_label)
            )
        except ImageError as error:
            raise DatasetError(f"{sample}: {error}; {_remedy(self._location)}") from error
        expected = (height, width, self.image_format.channels), self.image_format.dtype
        if (image.shape, image.dtype) != expected or label.shape != (height, width):
            raise DatasetError(
                f"{sample}: image {image.shape[:2]} and label {label.shape}, but "
                f"{(height, width)} with {self.image_format} is recorded; prepare the data set "
                "again"
            )
        return image, label

    def _decode(self, encoded: bytes) -> Pixels:
        if self.image_format.is_stored_as_rgb:
            return decode_rgb(encoded)
        return decode_channels(encoded, self.image_format.channels)

    def read_encoded(self, index: int) -> tuple[bytes, bytes | None]:
        """Return the stored bytes of image and label (None if unlabeled) of sample `index`.

        Raises:
            DatasetError: the row cannot be read; the message names the shard and the sample.
        """
        try:
            lock, file = self._open(self._shards[index])
            with lock:
                row = file.read_row_group(self._rows[index], list(IMAGE_COLUMNS), use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(
                f"{self._describe(index)} cannot be read ({error}); {_remedy(self._location)}"
            ) from error
        label = row["label"][0].as_py()
        return row["image"][0].as_py()["bytes"], None if label is None else label["bytes"]

    def _open(self, shard: str) -> tuple[threading.Lock, pq.ParquetFile]:
        with self._opening:
            if shard not in self._files:
                # Verify checksums, so that corrupted data is not trained on silently.
                file = pq.ParquetFile(self._location.open(shard), page_checksum_verification=True)
                self._files[shard] = threading.Lock(), file
            return self._files[shard]

    def _describe(self, index: int) -> str:
        file = self._location.file(self._shards[index])
        return f"{file}: sample {self.identifiers[index]!r}"


class PreparedDataset:
    """A prepared data set: its `manifest`, and its samples by `split(name)`."""

    def __init__(self, location: Location, manifest: Manifest) -> None:
        self.location = location
        self.manifest = manifest
        self._splits: dict[str, Split] = {}

    def split(self, name: str) -> Split:
        """Return the samples of split `name`; `train+val` concatenates two splits, and
        `train:fold-0-of-5` is a fold (see `split_names`).

        Raises:
            DatasetError: the split is missing or empty (the message lists the available splits), it
                cannot be divided into the folds, or the index is damaged.
        """
        if name not in self._splits and (fold := self._fold(name)) is not None:
            self._splits[name] = self.split(fold.split).select(name, self.rows_of(fold))
        if name in self._splits:
            return self._splits[name]
        parts = split_parts(name)
        for part in parts:
            if not self.manifest.counts.get(part):
                counts = self.manifest.counts.items()
                available = ", ".join(f"{key} ({count})" for key, count in counts if count)
                raise DatasetError(
                    f"{self.location.uri}: no samples in split {part!r}; "
                    f"it has {available or 'none'}"
                )
        rows = [self._index.filter(pc.equal(self._index["split"], part)) for part in parts]
        table = pa.concat_tables(rows)
        self._splits[name] = Split(name, self.location, table, self.manifest.images)
        return self._splits[name]

    def rows_of(self, fold: FoldName) -> list[int]:
        """Return the indices, in the split that is divided, of the samples of a fold, or of all
        others.

        Raises:
            DatasetError: as `split`.
        """
        whole = self.split(fold.split)
        try:
            return fold_rows(fold, whole.identifiers, whole.groups)
        except ValueError as error:
            raise DatasetError(f"{self.location.uri}: {error}") from error

    def _fold(self, name: str) -> FoldName | None:
        try:
            return parse_fold(name)
        except ValueError as error:
            raise DatasetError(f"split {name!r} of {self.location.uri}: {error}") from error

    @cached_property
    def _index(self) -> pa.Table:
        data = self.location.read(INDEX_NAME)
        if hashlib.sha256(data).hexdigest() != self.manifest.index_sha256:
            raise DatasetError(
                f"{self.location.file(INDEX_NAME)}: damaged (its SHA-256 differs from the "
                f"manifest's); {_remedy(self.location)}"
            )
        # A thread of pyarrow that releases `data` while Python exits would abort the process.
        index = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
        if IMAGE_DIGEST not in index.column_names:
            raise DatasetError(
                f"{self.location.file(INDEX_NAME)}: has no column {IMAGE_DIGEST!r}; "
                f"{_remedy(self.location)}"
            )
        return index.combine_chunks()


def open_dataset(uri: str | Path, fingerprint: str | None = None) -> PreparedDataset:
    """Open the data set that `pipelines.prepare` wrote to a directory or URI.

    Reads the manifest and checks the sizes of the shards; images are read on demand.
    fingerprint: the expected fingerprint, if known.

    Raises:
        DatasetError: `uri` does not exist or holds no prepared data set; the data set is
            incomplete or damaged, or has another fingerprint.
    """
    location = locate(uri)
    try:
        sizes = location.sizes()
        if MANIFEST_NAME not in sizes:
            raise DatasetError(_no_dataset_message(location, sizes))
        text = location.read(MANIFEST_NAME).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{location.uri}: cannot be read ({error})") from error
    manifest = Manifest.from_json(text, location.file(MANIFEST_NAME))
    if fingerprint not in (None, manifest.fingerprint):
        raise DatasetError(
            f"{location.uri}: the data set has changed (fingerprint {manifest.fingerprint[:12]}, "
            f"{fingerprint[:12]} before); run the command again"
        )
    if INDEX_NAME not in sizes:
        raise DatasetError(f"{location.file(INDEX_NAME)}: missing; {_remedy(location)}")
    for shard in manifest.shards:
        if shard.file not in sizes:
            raise DatasetError(
                f"{location.file(shard.file)}: missing, although the manifest lists it; "
                f"{_remedy(location)}"
            )
        if sizes[shard.file] != shard.bytes:
            raise DatasetError(
                f"{location.file(shard.file)}: damaged ({sizes[shard.file]} bytes, expected "
                f"{shard.bytes}); {_remedy(location)}"
            )
    return PreparedDataset(location, manifest)


def _remedy(location: Location) -> str:
    """Return what to do about a damaged data set, which `prepare` would not replace."""
    return f"delete {location.uri} and prepare it again"


def _no_dataset_message(location: Location, sizes: dict[str, int]) -> str:
    advice = "`orchestrator prepare --help` lists the supported data sets"
    if not location.exists():
        close = _similar_dataset(location)
        if close:
            return f"{location.uri}: does not exist; did you mean {close}?"
        return f"{location.uri}: does not exist; {advice}"
    if any(name.endswith(".parquet") for name in sizes):
        remedy = _remedy(location)
        if JOURNAL_NAME in sizes:  # in an object store; elsewhere, a folder appears when complete
            remedy = "run its `orchestrator prepare` command again"
        return f"{location.uri}: half-written (shards without {MANIFEST_NAME}); {remedy}"
    if location.is_local and DESCRIPTION_NAME in sizes:
        source = location.directory
        destination = source.with_name(f"{source.name}-prepared")
        advice = (
            f"{DESCRIPTION_NAME} describes its images; prepare them with "
            f"`orchestrator prepare folder --source {shlex.quote(str(source))} --destination "
            f"{shlex.quote(str(destination))}` and use that destination"
        )
    return f"{location.uri}: holds no prepared data set (no {MANIFEST_NAME}); {advice}"


def _similar_dataset(location: Location) -> str | None:
    """Return the path of a prepared data set in the same local directory with a similar name."""
    if not location.is_local:
        return None
    parent = location.directory.parent
    names = [file.parent.name for file in parent.glob(f"*/{MANIFEST_NAME}")]
    close = difflib.get_close_matches(location.directory.name, names, n=1)
    return str(parent / close[0]) if close else None
