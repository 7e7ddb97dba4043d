"""Inspecting, verifying and previewing prepared data sets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.data.augmentation import Augmentation
from pipelines.data.config import DataConfig
from pipelines.data.dataset import DatasetError, PreparedDataset, open_dataset
from pipelines.data.device_batches import prefetch_to_device
from pipelines.data.loading import TrainingBatches
from pipelines.data.overlays import overlay
from pipelines.data.sampling import GlobalBatches
from pipelines.preparation.contact_sheet import contact_sheet, hatch, preview
from pipelines.preparation.inspection import describe, verify
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.folder import Folder
from pipelines.prepare import main


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
    shown = overlay(image, label, streets.manifest.classes)
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
    assert crops.size[0] == sheet.size[0] + 2 * 2 * 64  # two pairs, each crop 64 pixels wider
    assert np.asarray(crops).std() > 20


def test_what_is_ignored_is_hatched() -> None:
    image = np.full((20, 20, 3), 90, np.uint8)
    chosen = np.zeros((20, 20), np.bool_)
    chosen[:, 10:] = True
    shown = hatch(image, chosen)
    assert np.array_equal(shown[:, :10], image[:, :10])
    black = (shown[:, 10:] == 0).all(axis=2)
    assert black.sum() == 20 * 10 / 5
    assert (black.sum(axis=0) == 4).all()


def test_sheets_of_very_long_pictures_and_of_a_split_without_labels(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name, size in (("high", (900, 30)), ("wide", (30, 900))):
        (source / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*size, 3), 60, np.uint8)).save(source / f"images/{name}.png")
    (source / "dataset.yaml").write_text(
        "classes: {'größe 漢': [1, 2, 3]}\nsplits: {test: {images: images}}\n", encoding="utf-8"
    )
    prepare(Folder(source), tmp_path / "set")
    dataset = open_dataset(tmp_path / "set")
    assert "test: 2 images, 30-900 x 30-900 pixels" in describe(dataset)
    assert "unlabeled" in describe(dataset)
    for sheet in (
        contact_sheet(dataset),
        preview(dataset, DataConfig(crop=(64, 64), train_split="test")),
    ):
        assert sheet.height < 600


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
    off = {"scale": [1, 1], "flip": 0, "hue": 0, "blur": [0, 0]}
    off |= dict.fromkeys(("brightness", "contrast", "saturation"), 0)
    recipe = {"data": {"crop": [32, 64], "augmentation": off, "train_split": "val"}}
    (tmp_path / "plain.yaml").write_text(json.dumps(recipe))  # which is YAML as well
    arguments = ["preview", uri, "--experiment", str(tmp_path / "plain.yaml"), "--count", "1"]
    assert main([*arguments, "--out", str(tmp_path / "c.png")]) == 0
    order = GlobalBatches(3, seed=0, batch=1).epoch(0)
    image, _ = streets.split("val").read(int(order[0].samples[0]))
    enlarged = Image.fromarray(image).resize((320, 160), Image.Resampling.BOX)
    with Image.open(tmp_path / "c.png") as picture:
        assert np.array_equal(np.asarray(picture)[14:174, :320], np.asarray(enlarged))
    (tmp_path / "plain.yaml").write_text("data: {crops: 3}")
    assert main(arguments) == 2
    assert "plain.yaml: unknown key data.crops" in capsys.readouterr().err
    assert main(["preview", uri, "--class-uniform", "2"]) == 2
    assert "class_uniform must be a share from 0 to 1, received 2.0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["preview", uri, "--count", "0"])
    assert "must be a whole number from 1, received '0'" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "nowhere")]) == 2
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
    assert main([command, streets.location.path, "--out", str(tmp_path / name)]) == 2
    assert sentence in capsys.readouterr().err


def test_augmenting_ahead_changes_nothing(streets: PreparedDataset) -> None:
    data = DataConfig(crop=(24, 40))
    batches = TrainingBatches(streets.split("train"), data, 0, 4)
    augmentation = Augmentation(data.augmentation, data.crop)
    ahead = prefetch_to_device(batches.epoch(0), augmentation, torch.device("cpu"))
    for found, batch in zip(ahead, batches.epoch(0), strict=True):
        images, labels = augmentation(batch)
        assert torch.equal(found.images, images)
        assert torch.equal(found.labels, labels)
        assert found.identifiers == batch.identifiers
