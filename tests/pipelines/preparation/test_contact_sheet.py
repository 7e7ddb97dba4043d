"""Contact sheets and previews of prepared data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.data.config import DataConfig
from pipelines.data.dataset import PreparedDataset, open_dataset
from pipelines.data.manifest import ClassInfo
from pipelines.preparation.contact_sheet import (
    GRAY,
    contact_sheet,
    hatch,
    preview,
    shaded_labels,
)
from pipelines.preparation.inspection import describe_dataset
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.folder import Folder


def test_sheets_show_samples_and_crops(streets: PreparedDataset) -> None:
    sheet = contact_sheet(streets, count=6)
    # The first tile shows the first sample, enlarged.
    image, _ = streets.split("train").read(0)
    enlarged = Image.fromarray(image).resize((256, 128), Image.Resampling.BOX)
    assert np.array_equal(np.asarray(sheet)[14:142, :256], np.asarray(enlarged))
    crops = preview(streets, DataConfig(crop=(32, 64)), count=4)
    assert crops.size[0] == sheet.size[0] + 2 * 2 * 64  # two pairs, each crop 64 pixels wider
    assert np.asarray(crops).std() > 20


def test_ignored_pixels_differ_from_a_black_class(tmp_path: Path) -> None:
    source = tmp_path / "source"
    label = np.zeros((40, 60), np.uint8)
    label[:, 20:40], label[:, 40:] = 1, 255
    for kind, values in (("images", np.full((40, 60, 3), 60, np.uint8)), ("labels", label)):
        (source / kind).mkdir(parents=True)
        Image.fromarray(values).save(source / kind / "a.png")
    (source / "dataset.yaml").write_text(
        "classes: {black: [0, 0, 0], red: [255, 0, 0]}\n"
        "splits: {train: {images: images, labels: labels}}\n"
    )
    prepare(Folder(source), tmp_path / "set")
    sheet = np.asarray(contact_sheet(open_dataset(tmp_path / "set"), width=60))
    drawn = sheet[14:54, 64:124]  # below the title, right of the image and a gap
    assert (drawn[:, :20] == 0).all()
    assert (drawn[:, 20:40] == (255, 0, 0)).all()
    hatched = np.full((40, 60, 3), 200, np.uint8)
    assert np.array_equal(drawn[:, 40:], hatch(hatched, np.ones((40, 60), np.bool_))[:, 40:])


def test_ignored_pixels_are_hatched() -> None:
    image = np.full((20, 20, 3), 90, np.uint8)
    mask = np.zeros((20, 20), np.bool_)
    mask[:, 10:] = True
    hatched = hatch(image, mask)
    assert np.array_equal(hatched[:, :10], image[:, :10])
    black = (hatched[:, 10:] == 0).all(axis=2)
    assert black.sum() == 20 * 10 / 5
    assert (black.sum(axis=0) == 4).all()


def test_labels_keep_the_hues_of_their_classes() -> None:
    classes = [ClassInfo("gray", (100, 100, 100)), ClassInfo("red", (200, 60, 60))]
    labels = np.array([[0, 0, 1, 1, 255]], np.uint8)
    bright = np.array([0, 1, 0, 1, 0])[None, :, None]
    image = np.where(bright, (120, 250, 120), (0, 130, 0)).astype(np.uint8)  # with a cast
    drawn = shaded_labels(image, labels, classes).astype(int)
    for pixel, info in zip(drawn[0, :4], [classes[0]] * 2 + [classes[1]] * 2, strict=True):
        (shift,) = set(pixel - info.color)
        assert abs(shift) < 40
    assert (drawn[0, [1, 3]] > drawn[0, [0, 2]] + 40).all()  # the image can be seen
    assert (drawn[0, 4] == GRAY).all()


def test_sheets_handle_elongated_images_and_an_unlabeled_split(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name, size in (("high", (900, 30)), ("wide", (30, 900))):
        (source / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*size, 3), 60, np.uint8)).save(source / f"images/{name}.png")
    (source / "dataset.yaml").write_text(
        "classes: {'größe 漢': [1, 2, 3], rest: [0, 0, 0]}\nsplits: {test: {images: images}}\n",
        encoding="utf-8",
    )
    prepare(Folder(source), tmp_path / "set")
    dataset = open_dataset(tmp_path / "set")
    assert "test: 2 images, 30-900 x 30-900 pixels (height x width)" in describe_dataset(dataset)
    assert "unlabeled" in describe_dataset(dataset)
    for sheet in (
        contact_sheet(dataset),
        preview(dataset, DataConfig(crop=(64, 64), train_split="test")),
    ):
        assert sheet.height < 600
