"""Opening of intact and damaged prepared data sets."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.dataset import PreparedDataset, open_dataset
from pipelines.data.image_io import decode_indices, decode_rgb, encode_png
from pipelines.data.manifest import INDEX_NAME, MANIFEST_NAME, DatasetError, Manifest
from pipelines.preparation.embedded import prepare_streets
from pipelines.preparation.streets import CLASSES, render_street
from tests.support import ROOT


@pytest.mark.slow
def test_rows_match_the_rendered_scenes(streets: PreparedDataset) -> None:
    split = streets.split("train")
    assert len(split) == 11
    assert split.identifiers[4] == "train-00004"
    for index in (0, 4, 10):
        image, label = split.read(index)
        expected, classes = render_street(0, index, 32, 64)
        assert np.array_equal(image, expected)
        assert np.array_equal(label, classes)


def test_manifest_statistics_match_the_rows(streets: PreparedDataset) -> None:
    manifest = streets.manifest
    assert manifest.name == "streets"
    assert manifest.classes == CLASSES
    assert manifest.counts == {"train": 11, "val": 3}
    rows = [streets.split(name).read(i) for name in ("train", "val")
            for i in range(manifest.counts[name])]  # fmt: skip
    images, labels = (np.stack(values) for values in zip(*rows, strict=True))
    counts = np.bincount(labels.ravel(), minlength=256)
    assert manifest.class_pixels == tuple(counts[: len(CLASSES)])
    assert manifest.ignored_pixels == counts[255]
    assert manifest.class_frequencies[0] == pytest.approx(counts[0] / counts[:10].sum())
    assert manifest.image_mean == pytest.approx(images.mean(axis=(0, 1, 2)) / 255)
    split = streets.split("val")
    first_counts = np.bincount(labels[11].ravel(), minlength=256)[:10]
    assert np.array_equal(split.class_pixels[0], first_counts)


def test_hugging_face_metadata_declares_images(streets: PreparedDataset) -> None:
    shard = streets.location.file(streets.manifest.shards[0].file)
    metadata = pq.read_schema(shard).metadata
    features = json.loads(metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == features["label"] == {"_type": "Image"}
    assert set(features) == set(pq.read_schema(shard).names)
    # `datasets` accepts the declaration only for this exact type.
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert pq.read_schema(shard).field("image").type == image_type


def test_missing_split_error_lists_available_splits(streets: PreparedDataset) -> None:
    with pytest.raises(DatasetError, match=r"no samples in split 'test'; it has train \(11\), val"):
        streets.split("test")


def test_joined_splits_are_concatenated_in_order(streets: PreparedDataset) -> None:
    train, val, both = (streets.split(name) for name in ("train", "val", "train+val"))
    assert (both.name, len(both)) == ("train+val", 14)
    assert both.identifiers == train.identifiers + val.identifiers
    assert np.array_equal(both.class_pixels, np.concatenate([train.class_pixels, val.class_pixels]))
    shifted = val.centroids + [len(train), 0, 0, 0]
    assert np.array_equal(both.centroids, np.concatenate([train.centroids, shifted]))
    for index, expected in ((10, train.read(10)), (11, val.read(0)), (13, val.read(2))):
        assert all(map(np.array_equal, both.read(index), expected))
    with pytest.raises(DatasetError, match="no samples in split 'test'; it has train"):
        streets.split("train+test")


@pytest.fixture
def copy(streets: PreparedDataset, tmp_path: Path) -> Path:
    return Path(shutil.copytree(streets.location.path, tmp_path / "copy"))


def shard_of(directory: Path, split: str = "train") -> Path:
    return next(directory.glob(f"{split}-*.parquet"))


def remove_manifest(directory: Path) -> None:
    (directory / MANIFEST_NAME).unlink()


def cut_manifest(directory: Path) -> None:
    text = (directory / MANIFEST_NAME).read_text()
    (directory / MANIFEST_NAME).write_text(text[: len(text) // 2])


def change_manifest(directory: Path) -> None:
    text = (directory / MANIFEST_NAME).read_text()
    (directory / MANIFEST_NAME).write_text(text.replace('"sidewalk"', '"walkway"'))


def use_old_manifest_version(directory: Path) -> None:
    text = (directory / MANIFEST_NAME).read_text()
    (directory / MANIFEST_NAME).write_text(text.replace('"version": 2', '"version": 1'))


def remove_shard(directory: Path) -> None:
    shard_of(directory).unlink()


def cut_shard(directory: Path) -> None:
    data = shard_of(directory).read_bytes()
    shard_of(directory).write_bytes(data[: len(data) // 2])


def remove_index(directory: Path) -> None:
    (directory / INDEX_NAME).unlink()


def remove_all(directory: Path) -> None:
    shutil.rmtree(directory)


def empty(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.mkdir()


def leave_raw_images(directory: Path) -> None:
    empty(directory)
    (directory / "images").mkdir()
    (directory / "dataset.yaml").write_text("classes: {a: [1, 1, 1]}\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_all, "does not exist"),
        (empty, "holds no prepared data set .*; `orchestrator prepare --help` lists"),
        (
            leave_raw_images,
            r"holds no prepared data set .*; dataset\.yaml describes its images; prepare them with "
            r"`orchestrator prepare folder --source (\S+) --destination \1-prepared` and",
        ),
        (remove_manifest, "half-written .*; delete .* and prepare it again"),
        (cut_manifest, "damaged manifest"),
        (change_manifest, "damaged manifest: its content has fingerprint"),
        (use_old_manifest_version, "format version 1 is not 2.*delete .* and prepare it again"),
        (remove_index, r"index\.pq: missing"),
        (remove_shard, r"\.parquet: missing"),
        (cut_shard, r"\.parquet: damaged \(\d+ bytes, expected \d+\)"),
    ],
)
def test_damaged_data_set_is_reported(
    copy: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(copy)
    with pytest.raises(DatasetError, match=message):
        open_dataset(copy)


def test_flipped_bit_is_reported_when_its_row_is_read(copy: Path) -> None:
    split = open_dataset(copy).split("train")
    stored, _ = split.read_encoded(7)
    data = bytearray(shard_of(copy).read_bytes())
    data[data.index(stored) + len(stored) // 2] ^= 4
    shard_of(copy).write_bytes(data)
    damaged = open_dataset(copy).split("train")
    with pytest.raises(DatasetError, match=r"train-.*parquet: sample 'train-00007' cannot be read"):
        damaged.read(7)


def test_opening_starts_no_thread_that_could_outlive_python(streets: PreparedDataset) -> None:
    """A thread of pyarrow aborted about 1 of 50 processes that ended soon after opening."""
    script = (
        "import os, sys\n"
        "from pipelines.data.dataset import open_dataset\n"
        "from pipelines.data.shards import describe_shard\n"
        "import pyarrow as pa\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "dataset = open_dataset(sys.argv[1])\n"
        "dataset.split('train')\n"
        "shard = dataset.manifest.shards[0].file\n"
        "describe_shard(shard, pa.BufferReader(dataset.location.read(shard)))\n"
        "print(len(os.listdir('/proc/self/task')) - before)\n"
    )
    command = [sys.executable, "-c", script, streets.location.uri]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "0\n", "")


def test_damaged_index_is_reported(copy: Path) -> None:
    index = copy / INDEX_NAME
    data = bytearray(index.read_bytes())
    data[len(data) // 2] ^= 1
    index.write_bytes(data)
    with pytest.raises(DatasetError, match=r"index\.pq: damaged"):
        open_dataset(copy).split("val")


@pytest.mark.slow
def test_changed_fingerprint_is_rejected(copy: Path, tmp_path: Path) -> None:
    """Sample names are equal, so results would be recorded under the wrong fingerprint."""
    fingerprint = open_dataset(copy).manifest.fingerprint
    assert open_dataset(copy, fingerprint).manifest.fingerprint == fingerprint
    prepare_streets(tmp_path / "other", train=11, val=3, size=(32, 64), seed=1)
    with pytest.raises(DatasetError, match=rf"data set has changed .*, {fingerprint[:12]} bef"):
        open_dataset(tmp_path / "other", fingerprint)


def test_similar_name_is_suggested(copy: Path) -> None:
    typo = copy.with_name(f"{copy.name}s")
    with pytest.raises(DatasetError, match=f"{typo}: does not exist; did you mean {copy}"):
        open_dataset(typo)
    with pytest.raises(DatasetError, match="does not exist; `orchestrator"):
        open_dataset(copy.with_name("xyzxyz"))


def test_file_or_unknown_scheme_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    for uri in (tmp_path / "file", "nowhere://bucket/data"):
        with pytest.raises(DatasetError, match=str(uri)):
            open_dataset(uri)


SIZE = st.tuples(st.integers(1, 40), st.integers(1, 40))


@given(SIZE, st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_images_and_labels_survive_encoding(size: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    label = rng.integers(0, 256, size, dtype=np.uint8)
    assert np.array_equal(decode_rgb(encode_png(image)), image)
    assert np.array_equal(decode_indices(encode_png(label)), label)


def test_manifest_survives_serialization(streets: PreparedDataset) -> None:
    manifest = streets.manifest
    restored = Manifest.from_json(manifest.to_json(), "here")
    assert restored == manifest
    assert restored.fingerprint == manifest.fingerprint
