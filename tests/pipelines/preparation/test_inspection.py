"""Description and verification of prepared data sets."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipelines.data.dataset import DatasetError, PreparedDataset, open_dataset
from pipelines.preparation.inspection import describe, verify


def test_describe_reports_counts_and_frequencies(streets: PreparedDataset) -> None:
    text = describe(streets)
    assert "train: 11 images, 32 x 64 pixels (height x width), 1 shard, " in text
    assert streets.manifest.fingerprint in text
    road = next(line for line in text.splitlines() if line.split()[:1] == ["road"])
    assert road.split()[1:] == [f"{streets.manifest.class_frequencies[0]:.3%}", "14"]


def test_verify_reports_every_damaged_shard_and_sample(
    streets: PreparedDataset, tmp_path: Path
) -> None:
    progress: list[tuple[int, int]] = []
    verify(streets, lambda done, total: progress.append((done, total)))
    assert progress[-1] == (14, 14)
    directory = Path(shutil.copytree(streets.location.path, tmp_path / "copy"))
    for split, index in (("train", 3), ("val", 1)):
        stored, _ = open_dataset(directory).split(split).read_encoded(index)
        shard = next(directory.glob(f"{split}-*"))
        data = bytearray(shard.read_bytes())
        data[data.index(stored) + 50] ^= 1
        shard.write_bytes(data)
    with pytest.raises(DatasetError, match="4 problems") as caught:
        verify(open_dataset(directory))
    for part in ("SHA-256", "'train-00003'", "'val-00001'"):
        assert part in str(caught.value)
