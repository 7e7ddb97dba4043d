"""Decisions for a whole source: scale, orientation, files that cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.data.dataset import open_dataset
from pipelines.data.manifest import DatasetError, Manifest
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.folder import Folder

RNG = np.random.default_rng(0)
SPLITS = "splits: {train: {images: images, labels: labels}}\n"
DESCRIPTION = f"classes: {{a: [1, 1, 1], b: [2, 2, 2]}}\n{SPLITS}"


class Source:
    """A `folder` data set in a temporary directory."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path / "source"
        self._out = tmp_path
        self._count = 0
        for folder in ("images", "labels"):
            (self.root / folder).mkdir(parents=True)

    def add(
        self, name: str, pixels: np.ndarray, label: tuple[int, int] | None = None, turn: int = 1
    ) -> Path:
        exif = Image.Exif()
        exif[0x0112] = turn
        path = self.root / "images" / name
        Image.fromarray(pixels).save(path, **({"exif": exif} if turn > 1 else {}))
        values = np.zeros(label or pixels.shape[:2], np.uint8)
        values[0] = 1
        Image.fromarray(values).save(self.root / "labels" / f"{path.stem}.png")
        return path

    def prepare(self, keys: str = "", skip_invalid: bool = False) -> Manifest:
        (self.root / "dataset.yaml").write_text(DESCRIPTION + keys)
        self._count += 1
        self.destination = self._out / str(self._count)
        return prepare(Folder(self.root), self.destination, skip_invalid=skip_invalid)

    def images(self) -> list[np.ndarray]:
        split = open_dataset(self.destination).split("train")
        return [split.read(index)[0] for index in range(len(split))]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


def rgb(height: int = 4, width: int = 6) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_scale_is_one_decision_with_its_range(source: Source) -> None:
    deep = [RNG.integers(10, 4001, (4, 6)).astype(np.uint16) for _ in range(3)]
    for index, values in enumerate(deep):
        source.add(f"{index}.png", values)
    low, high = min(map(np.min, deep)), max(map(np.max, deep))
    with pytest.raises(DatasetError, match="1 problem") as caught:
        source.prepare()
    assert "3 images, such as" in str(caught.value)
    assert f"they range from {low} to {high}, so that `scale: [0, 4095]`" in str(caught.value)
    manifest = source.prepare("scale: [0, 4095]\n")
    assert manifest.notes == (f"scale [0, 4095]: the images' values range from {low} to {high}",)
    for image, values in zip(source.images(), deep, strict=True):
        assert np.array_equal(image[..., 2], np.rint(values / 4095 * 255))
    clipped = sum((values > 1000).sum() for values in deep) / (3 * 24)
    (note,) = source.prepare("scale: [0, 1000]\n").notes
    assert note.endswith(f"; {clipped:.2%} of them are outside it and were clipped")
    (note,) = source.prepare("scale: [0, 65535]\n").notes
    assert note.endswith("less than a quarter of it, so that images are nearly uniform")


@pytest.mark.parametrize("scale", ["[10000, 20000]", "[0, 1.0e+50]"])
def test_scale_that_leaves_no_detail_is_refused(source: Source, scale: str) -> None:
    for name in ("a.png", "b.png"):
        source.add(name, RNG.integers(1, 3998, (4, 6)).astype(np.uint16))
    with pytest.raises(DatasetError, match=r"leaves no detail in any image.*scale: \[0, 4095\]"):
        source.prepare(f"scale: {scale}\n")
    assert not source.destination.exists()


def test_pipe_is_reported_instead_of_read(source: Source) -> None:
    source.add("a.png", rgb())
    os.mkfifo(source.root / "images" / "pipe.png")
    with pytest.raises(DatasetError, match=r"pipe\.png: is not a regular file; remove it"):
        source.prepare()


def test_unused_scale_and_dropped_transparency_are_noted(source: Source) -> None:
    source.add("a.png", np.dstack([rgb(), np.full((4, 6), 9, np.uint8)]))
    notes = source.prepare("scale: [0, 4095]\n").notes
    assert notes == (
        "1 image (a.png) has transparency, which is dropped",
        "scale is without effect: every image has 8 bits per value",
    )
    assert open_dataset(source.destination).manifest.notes == notes


def test_images_with_unclear_bands_are_left_out(source: Source) -> None:
    source.add("a.tif", np.dstack([rgb(), np.zeros((4, 6), np.uint8)]))
    source.add("b.png", rgb())
    (source.root / "images/c.npy").touch()
    (source.root / "images/d.png").symlink_to("/nowhere/d.png")
    with pytest.raises(DatasetError, match="2 problems") as caught:
        source.prepare()
    assert "d.png: links to /nowhere/d.png, which does not exist" in str(caught.value)
    manifest = source.prepare(skip_invalid=True)
    assert manifest.counts == {"train": 1}
    assert len(manifest.skipped) == 2
    assert "train/a: " in manifest.skipped[1]
    (note,) = manifest.notes
    assert note.endswith("images: 1 file with an unknown extension (.npy)")


def test_problems_come_with_notes_that_may_explain_them(source: Source) -> None:
    source.add("a.png", rgb())
    source.add("b.png", rgb()).rename(source.root / "images/b.heic")
    with pytest.raises(DatasetError, match="1 problem in ") as caught:
        source.prepare()
    problem, note = str(caught.value).splitlines()[1:]
    assert problem.startswith("  train/b: ")
    assert "labels/b.png: label has no image; expected a file such as " in problem
    assert problem.endswith("images/b.jpg")
    assert note.startswith("  note: train: ")
    assert note.endswith("1 file with an unknown extension (.heic)")


def test_label_that_links_to_its_image_is_a_problem(source: Source) -> None:
    path = source.add("a.png", rgb())
    label = source.root / "labels/a.png"
    label.unlink()
    label.symlink_to(path)
    with pytest.raises(DatasetError, match="image is the same file as its label"):
        source.prepare()


@pytest.mark.parametrize("stored", [True, False])
def test_sizes_decide_on_orientation_for_the_whole_source(source: Source, stored: bool) -> None:
    """The label of the image turned by 90 degrees shows how the others were drawn."""
    pixels = [rgb(), rgb(), rgb(5, 5)]
    source.add("a.png", pixels[0], turn=3)
    source.add("b.png", pixels[1], turn=6, label=(4, 6) if stored else (6, 4))
    source.add("c.png", pixels[2], turn=2)
    (note,) = source.prepare().notes
    decision = "ignored" if stored else "applied to them"
    assert f"(a.png, b.png and 1 more) have an EXIF orientation, which is {decision}" in note
    displayed = [pixels[0][::-1, ::-1], np.rot90(pixels[1], -1), pixels[2][:, ::-1]]
    assert all(map(np.array_equal, source.images(), pixels if stored else displayed))


def test_unclear_orientation_needs_a_decision(source: Source) -> None:
    pixels = rgb()
    source.add("a.png", pixels, turn=3)
    source.add("b.png", rgb())
    with pytest.raises(DatasetError, match=r"set `exif: ignore` .* or `exif: apply` .* in dataset"):
        source.prepare()
    assert source.prepare(skip_invalid=True).counts == {"train": 1}
    source.prepare("exif: ignore\n")
    assert np.array_equal(source.images()[0], pixels)
    (note,) = source.prepare("exif: apply\n").notes
    assert note.endswith("which is applied to them, as `exif: apply` says")
    assert np.array_equal(source.images()[0], pixels[::-1, ::-1])


def test_contradictory_sizes_are_decided_one_by_one_or_refused(source: Source) -> None:
    first, second = rgb(), rgb()
    source.add("a.png", first, turn=6, label=(4, 6))
    source.add("b.png", second, turn=6, label=(6, 4))
    (note,) = source.prepare().notes
    assert "the size of each label decides" in note
    assert all(map(np.array_equal, source.images(), [first, np.rot90(second, -1)]))
    with pytest.raises(DatasetError, match=r"label of 6 x 4 pixels .*; `exif: apply` would fit"):
        source.prepare("exif: ignore\n")
    source.add("c.png", rgb(), turn=3)
    with pytest.raises(DatasetError, match=r"c\.png may be either; rewrite the images"):
        source.prepare()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("scale: [0, 1" + 400 * "0" + "]", r"scale must be"),
        ("scale: [-1.7e308, 1.7e308]", r"scale must be"),
        ("scale: [0, 5e-324]", r"scale must be"),
        (r'label_suffix: "\0"', r"label_suffix must be"),
        ("values: {0: [a], 1: b}", r"values\.0 must map a stored value"),
        ("scale: [5, 5]", r"scale must be .* received \[5, 5\]"),
        ("scale: 4095", "scale must be .* received 4095"),
        ("bands: [0, 1, 2]", r"bands must be .* received \[0, 1, 2\]"),
        ("exif: rotate", "exif must be apply or ignore, received 'rotate'"),
        ("label_suffix: ''", "label_suffix must be the end of a file name"),
        ("label_suffix: _m\nimage_suffix: _m", "image_suffix and label_suffix are both '_m'"),
    ],
)
def test_invalid_image_keys_are_reported(source: Source, keys: str, message: str) -> None:
    source.add("a.png", rgb())
    with pytest.raises(DatasetError, match=message):
        source.prepare(f"{keys}\n")
