"""Inspecting, verifying and previewing prepared data sets."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.augmentation import Augmentation
from pipelines.data import DataConfig
from pipelines.dataset import DatasetError, PreparedDataset, open_dataset
from pipelines.device import augment_ahead
from pipelines.inspection import describe, verify
from pipelines.loading import TrainingBatches
from pipelines.prepare import main
from pipelines.sheets import contact_sheet, overlay, preview


def test_the_description_counts(streets: PreparedDataset) -> None:
    text = describe(streets)
    assert "train: 11 images, 64 x 32 pixels, 1 shard, " in text
    assert streets.manifest.fingerprint in text
    road = next(line for line in text.splitlines() if line.split()[:1] == ["road"])
    assert road.split()[1:] == [f"{streets.manifest.class_frequencies[0]:.3%}", "14"]


def test_verify_finds_every_difference(streets: PreparedDataset, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    verify(streets, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (14, 14)
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


def test_overlays_leave_the_unlabelled_alone(streets: PreparedDataset) -> None:
    image, label = streets.split("train").read(0)
    shown = overlay(image, label, streets)
    assert np.array_equal(shown[label == 255], image[label == 255])
    road = np.array(streets.manifest.classes[0].color)
    wanted = (image[label == 0].astype(int) + road) // 2
    assert np.array_equal(shown[label == 0], wanted)


def test_sheets_show_samples_and_crops(streets: PreparedDataset) -> None:
    sheet = contact_sheet(streets, count=6)
    # The first tile's picture is the first sample, enlarged.
    image, _ = streets.split("train").read(0)
    enlarged = Image.fromarray(image).resize((256, 128), Image.Resampling.BOX)
    assert np.array_equal(np.asarray(sheet)[14:142, :256], np.asarray(enlarged))
    crops = preview(streets, DataConfig(crop=(32, 64)), count=4)
    assert crops.size[0] == sheet.size[0] + 2 * 2 * 64
    assert np.asarray(crops).std() > 20


def test_commands_write_their_sheets(
    streets: PreparedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = streets.location.path
    assert main(["inspect", uri, "--verify", "--out", str(tmp_path / "a.png")]) == 0
    assert main(["preview", uri, "--crop", "64x32", "--out", str(tmp_path / "b.png")]) == 0
    for name in ("a.png", "b.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.size[0] > 500
    printed = capsys.readouterr().out
    assert "verified" in printed
    assert "augmented crops of 64x32" in printed
    with pytest.raises(SystemExit):
        main(["preview", uri, "--count", "0"])
    assert "'0' is not a number from 1 on" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "nowhere")]) == 1
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("sheet.foo", "cannot be written as '.foo'; use .png, .jpg"),
        ("sheet", "cannot be written as ''; use .png"),
        ("nowhere/sheet.png", "there is no directory"),
        ("taken.png", "is a directory"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "preview"])
def test_an_impossible_sheet_is_found_before_anything_is_drawn(
    streets: PreparedDataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    sentence: str,
    command: str,
) -> None:
    (tmp_path / "taken.png").mkdir()
    monkeypatch.setattr(PreparedDataset, "split", None)  # nothing of the data is read
    assert main([command, streets.location.path, "--out", str(tmp_path / name)]) == 1
    assert sentence in capsys.readouterr().err


def test_augmenting_ahead_changes_nothing(streets: PreparedDataset) -> None:
    data = DataConfig(crop=(24, 40))
    batches = TrainingBatches(streets.split("train"), data, 0, 4)
    augmentation = Augmentation(data.augmentation, data.crop)
    ahead = augment_ahead(batches.epoch(0), augmentation, torch.device("cpu"))
    for found, batch in zip(ahead, batches.epoch(0), strict=True):
        images, labels = augmentation(batch)
        assert torch.equal(found.images, images)
        assert torch.equal(found.labels, labels)
        assert found.identifiers == batch.identifiers
