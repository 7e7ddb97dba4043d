"""Parquet shards: one row a sample, laid out so that single rows are read cheaply and checked."""

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

PICTURES = ("image", "label")


@dataclass(frozen=True)
class Centroid:
    """Centre of mass (pixel row and column) of a class within one tile of the label."""

    class_index: int
    row: int
    column: int


@dataclass(frozen=True)
class Sample:
    """One row: encoded image, encoded label (class indices; None: unlabelled), what was counted.

    `group` is what belongs together, such as a drive or a city; None where that is not known.
    `class_pixels` has one count a class; `digest` identifies identifier, split, image and label.
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

    @property
    def bytes(self) -> int:
        return len(self.image) + len(self.label or b"")


def schema() -> pa.Schema:
    """Columns of a shard, with metadata that makes Hugging Face `datasets` show the pictures."""
    picture = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
    centroid = pa.struct([("class", pa.int16()), ("row", pa.int32()), ("column", pa.int32())])
    columns = [
        ("identifier", pa.string(), {"dtype": "string", "_type": "Value"}),
        ("split", pa.string(), {"dtype": "string", "_type": "Value"}),
        ("group", pa.string(), {"dtype": "string", "_type": "Value"}),
        ("image", picture, {"_type": "Image"}),
        ("label", picture, {"_type": "Image"}),
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
    ]
    features = {name: feature for name, _, feature in columns}
    return pa.schema(
        [(name, kind) for name, kind, _ in columns],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )


def encode_shard(samples: Sequence[Sample]) -> bytes:
    """The Parquet file that holds `samples` in order, each in a row group of its own.

    A row group is the least that a read of one row touches and checks; pictures of several rows
    would not compress better together.
    """
    table = pa.Table.from_pylist([_row(sample) for sample in samples], schema=schema())
    return _encode(table, row_group_size=1, compression="NONE")  # pictures are compressed already


def describe_shard(file: str, data: pa.NativeFile | pa.Buffer) -> pa.Table:
    """The rows of shard `file` without their pictures, with where they lie, for `encode_index`."""
    columns = [name for name in schema().names if name not in PICTURES]
    table = pq.ParquetFile(data, page_checksum_verification=True).read(columns=columns)
    rows = pa.array(range(len(table)), pa.int32())
    places = pa.array([file] * len(table), pa.string())
    return table.append_column("shard", places).append_column("row", rows)


def encode_index(tables: Sequence[pa.Table]) -> bytes:
    """The Parquet file that lists all rows of all shards, so that opening reads no shard."""
    return _encode(pa.concat_tables(tables).replace_schema_metadata(None), 1 << 20, "ZSTD")


def _encode(table: pa.Table, row_group_size: int, compression: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression=compression,
        use_dictionary=False,
        # Parquet knows one kind of bytes. Were ours noted to be large ones, `datasets` would no
        # longer take them for a picture's.
        store_schema=False,
        write_statistics=False,
        write_page_checksum=True,  # finds a damaged row when it is read
    ) as writer:
        writer.write_table(table, row_group_size=row_group_size)
        writer.add_key_value_metadata(table.schema.metadata or {})
    return sink.getvalue().to_pybytes()


def _row(sample: Sample) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(sample, name) for name in schema().names}
    for name in PICTURES:
        if row[name] is not None:
            row[name] = {"bytes": row[name], "path": None}
    row["centroids"] = [
        {"class": each.class_index, "row": each.row, "column": each.column}
        for each in sample.centroids
    ]
    return row


def sample_digest(
    identifier: str, split: str, image: NDArray[np.uint8] | bytes, label: NDArray[np.uint8] | None
) -> str:
    """Identifies a sample's content.

    `image` is the source file's bytes where they are stored as they came, else the pixels, because
    the bytes of a re-encoded picture depend on the encoder's version.
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
