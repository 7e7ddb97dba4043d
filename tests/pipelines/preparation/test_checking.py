"""Class centroids within tiles, and images that are copies of their labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.data.manifest import DatasetError
from pipelines.preparation.checking import centroids
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.folder import Folder

COLORS = [(110, 80, 60), (40, 160, 40), (60, 60, 200)]
DESCRIPTION = """
classes: {ground: [110, 80, 60], tree: [40, 160, 40], car: [60, 60, 200]}
splits: {train: {images: i, labels: l}}
"""


def source(root: Path, image: Image.Image, label: Image.Image, keys: str = "") -> Folder:
    for folder, picture in (("i", image), ("l", label)):
        (root / folder).mkdir(parents=True)
        picture.save(root / folder / "a.png")
    (root / "dataset.yaml").write_text(DESCRIPTION + keys)
    return Folder(root)


@pytest.mark.parametrize(
    ("mode", "keys"),
    [
        ("L", ""),
        ("P", ""),
        ("RGB", "label_colors: true"),
        ("L", "bands: [1]"),
    ],
)
def test_copy_of_the_label_is_no_image(tmp_path: Path, mode: str, keys: str) -> None:
    indices = np.resize(np.array([0, 1, 2], np.uint8), (8, 10))
    label = Image.fromarray(indices)
    if mode == "P":
        label.putpalette([level for color in COLORS for level in color])
    if mode == "RGB":
        label = Image.fromarray(np.array(COLORS, np.uint8)[indices])
    message = f"train/a: {tmp_path}/i/a.png: image has the same pixels as its label"
    with pytest.raises(DatasetError, match=message):
        prepare(source(tmp_path, label, label, keys), tmp_path / "set")


def test_image_without_data_may_equal_its_label(tmp_path: Path) -> None:
    black = Image.new("L", (10, 8))
    folder = source(tmp_path, black, black)
    indices = np.resize(np.array([0, 1, 2], np.uint8), (8, 10))
    Image.fromarray(indices * 9).save(tmp_path / "i/b.png")
    Image.fromarray(indices).save(tmp_path / "l/b.png")
    assert prepare(folder, tmp_path / "set").counts == {"train": 2}


def test_centroids_are_means_within_tiles() -> None:
    label = np.random.default_rng(0).choice([0, 2, 255], size=(25, 37)).astype(np.uint8)
    remaining = {(c.class_index, c.row // 16, c.column // 16): c for c in centroids(label, 16)}
    for top in range(0, 25, 16):
        for left in range(0, 37, 16):
            for index in (0, 2):
                rows, columns = np.nonzero(label[top : top + 16, left : left + 16] == index)
                centroid = remaining.pop((index, top // 16, left // 16))
                assert centroid.row == top + rows.sum() // len(rows)
                assert centroid.column == left + columns.sum() // len(columns)
    assert not remaining
