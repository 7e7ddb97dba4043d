"""Description and verification of prepared data sets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.dataset import PreparedDataset, open_dataset
from pipelines.data.manifest import DatasetError
from pipelines.preparation.inspection import describe_dataset, verify


def test_describe_reports_counts_and_frequencies(streets: PreparedDataset) -> None:
    text = describe_dataset(streets)
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


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"counts": {"train": 11}}, "val: 3 samples, but the manifest says 0"),
        ({"counts": {"train": 11, "val": 4}}, "val: 3 samples, but the manifest says 4"),
        ({"counts": {"train": 11, "val": 3, "test": 2}}, "test: 0 samples, but .* says 2"),
        ({"class_pixels": [5]}, r"road: \d+ pixels in the index, but the manifest says 5"),
        ({"ignored_pixels": -1}, r"ignored: \d+ pixels in the index, but the manifest says -1"),
    ],
)
def test_verify_reports_counts_that_are_not_those_of_the_index(
    streets: PreparedDataset, tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    directory = Path(shutil.copytree(streets.location.path, tmp_path / "copy"))
    manifest = directory / "manifest.json"
    content = json.loads(manifest.read_text())
    for key, value in changes.items():
        if isinstance(value, list):
            value = value + content[key][len(value) :]
        content[key] = value
    manifest.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=f"1 problem; delete {directory} and .*\n  {problem}"):
        verify(open_dataset(directory))
