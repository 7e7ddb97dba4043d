"""Parquet shards: one row per sample, laid out for fast, checksummed reads of single rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.data.image_format import Pixels

IMAGE_COLUMNS = ("image", "label")
IMAGE_DIGEST = "image_digest"


@dataclass(frozen=True)
class Centroid:
    """Center of mass (pixel row and column) of a class within one tile of the label."""

    class_index: int
    row: int
    column: int


@dataclass(frozen=True)
class Sample:
    """One row of a shard.

    identifier: unique name of the sample. group: the drive, city or the like that related samples
    share, None if unknown. image, label: encoded bytes; the label holds class indices and is None
    for an unlabeled sample. height, width: in pixels. class_pixels: pixel count per class. digest:
    hash of identifier, split, image and label. image_digest: hash of the image's pixels alone.
    """

    identifier: str
    split: str
    group: str | None
    image: bytes
    label: bytes | None
    height: int
    width: int
    class_pixels: tuple[int, ...]
    centroids: tuple[Centroid, ...]
    digest: str
    image_digest: str

    @property
    def bytes(self) -> int:
        return len(self.image) + len(self.label or b"")


def schema() -> pa.Schema:
    """Return the columns of a shard, with metadata for Hugging Face `datasets` to show images."""
    encoded_image = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
    centroid = pa.struct([("class", pa.int16()), ("row", pa.int32()), ("column", pa.int32())])
    columns = [
        ("identifier", pa.string(), {"dtype": "string", "_type": "Value"}),
        ("split", pa.string(), {"dtype": "string", "_type": "Value"}),
        ("group", pa.string(), {"dtype": "string", "_type": "Value"}),
        ("image", encoded_image, {"_type": "Image"}),
        ("label", encoded_image, {"_type": "Image"}),
        ("height", pa.int32(), {"dtype": "int32", "_type": "Value"}),
        ("width", pa.int32(), {"dtype": "int32", "_type": "Value"}),
        (
            "class_pixels",
            pa.list_(pa.int64()),
            {"feature": {"dtype": "int64", "_type": "Value"}, "_type": "Sequence"},
        ),
        (
            "centroids",
            pa.list_(centroid),
            [
                {
                    "class": {"dtype": "int16", "_type": "Value"},
                    "row": {"dtype": "int32", "_type": "Value"},
                    "column": {"dtype": "int32", "_type": "Value"},
                }
            ],
        ),
        ("digest", pa.string(), {"dtype": "string", "_type": "Value"}),
        (IMAGE_DIGEST, pa.string(), {"dtype": "string", "_type": "Value"}),
    ]
    features = {name: feature for name, _, feature in columns}
    return pa.schema(
        [(name, kind) for name, kind, _ in columns],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )


def encode_shard(samples: Sequence[Sample]) -> bytes:
    """Return the Parquet file of `samples`, in order, with one row group per sample.

    Reading one row reads and verifies its whole row group. Larger groups would not compress better,
    since images are already compressed.
    """
    table = pa.Table.from_pylist([_row(sample) for sample in samples], schema=schema())
    return _encode(table, row_group_size=1, compression="NONE")


def describe_shard(file: str, data: pa.NativeFile | pa.Buffer) -> pa.Table:
    """Return the rows of shard `file` for `encode_index`: no images, but shard and row number."""
    columns = [name for name in schema().names if name not in IMAGE_COLUMNS]
    parquet = pq.ParquetFile(data, page_checksum_verification=True)
    # A thread of pyarrow that releases `data` while Python exits would abort the process.
    table = parquet.read(columns=columns, use_threads=False)
    rows = pa.array(range(len(table)), pa.int32())
    shards = pa.array([file] * len(table), pa.string())
    return table.append_column("shard", shards).append_column("row", rows)


def encode_index(tables: Sequence[pa.Table]) -> bytes:
    """Return the Parquet file that lists all rows of all shards; opening a data set reads it."""
    return _encode(pa.concat_tables(tables).replace_schema_metadata(None), 1 << 20, "ZSTD")


def _encode(table: pa.Table, row_group_size: int, compression: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression=compression,
        use_dictionary=False,
        # `datasets` does not accept Arrow's large_binary as image bytes, so do not store that type.
        store_schema=False,
        write_statistics=False,
        write_page_checksum=True,  # detects a damaged row when it is read
    ) as writer:
        writer.write_table(table, row_group_size=row_group_size)
        writer.add_key_value_metadata(table.schema.metadata or {})
    return sink.getvalue().to_pybytes()


def _row(sample: Sample) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(sample, name) for name in schema().names}
    for name in IMAGE_COLUMNS:
        if row[name] is not None:
            row[name] = {"bytes": row[name], "path": None}
    row["centroids"] = [
        {"class": centroid.class_index, "row": centroid.row, "column": centroid.column}
        for centroid in sample.centroids
    ]
    return row


def pixels_digest(pixels: Pixels) -> str:
    """Return a hash of an image's size and pixels."""
    digest = hashlib.sha256(f"{pixels.shape}\n".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def sample_digest(
    identifier: str, split: str, image: Pixels | bytes, label: NDArray[np.uint8] | None
) -> str:
    """Return a hash of a sample's content.

    `image` is the source file's bytes if they are stored unchanged, otherwise the pixels: the bytes
    of a re-encoded image depend on the version of the encoder.
    """
    digest = hashlib.sha256(f"{identifier}\n{split}\n".encode())
    if isinstance(image, bytes):
        digest.update(image)
    else:
        digest.update(f"{image.shape}\n".encode())
        digest.update(np.ascontiguousarray(image).data)
    if label is not None:
        digest.update(f"\n{label.shape}\n".encode())
        digest.update(np.ascontiguousarray(label).data)
    return digest.hexdigest()
