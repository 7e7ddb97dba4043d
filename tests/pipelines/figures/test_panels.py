"""Panels and confusion matrices as image files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.data.manifest import ClassInfo
from pipelines.figures.comparison import ComparedImage, draw_comparison
from pipelines.figures.features import Features, draw_features
from pipelines.figures.panels import draw_confusion, draw_panels

CLASSES = [ClassInfo("road", (128, 64, 128)), ClassInfo("sky", (70, 130, 180))]


def test_panels_grow_with_row_count_and_use_class_colors(tmp_path: Path) -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    label = np.ones((40, 80), np.uint8)
    heights = []
    for count in (1, 3):
        path = tmp_path / f"{count}.png"
        draw_panels(path, [("name", image, label, label)] * count, CLASSES, "title")
        with Image.open(path) as image_file:
            pixels = np.asarray(image_file.convert("RGB"))
        heights.append(pixels.shape[0])
        sky = (pixels == CLASSES[1].color).all(axis=2)
        # Label and prediction fill about half of the width of each row.
        assert sky.mean() > 0.15
    assert heights[1] > 1.8 * heights[0]


def test_names_are_plain_text(tmp_path: Path) -> None:
    """matplotlib takes text between two `$` as math, of which it knows a part."""
    name = r"ours ($\textsc{df}$)"
    image = np.zeros((8, 16, 3), np.uint8)
    label = np.zeros((8, 16), np.uint8)
    classes = [ClassInfo(name, (128, 64, 128))]
    draw_panels(tmp_path / "panels.png", [(name, image, label, label)], classes, name)
    draw_confusion(tmp_path / "confusion.png", np.ones((1, 1)), np.ones(1), [name], name)
    features = Features(name, image, {"neck": np.ones((2, 4), np.float32)}, label)
    draw_features([tmp_path / "features.png"], [features], classes, 4, name)
    compared = ComparedImage(name, image, label, label, label, (0.5, 0.5))
    names = name, name
    draw_comparison([tmp_path / "comparison.png"], [compared], classes, names, names, name)
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.slow
def test_confusion_matrix_with_an_absent_class_is_drawn(tmp_path: Path) -> None:
    confusion = np.array([[90, 10, 0], [0, 50, 0], [0, 0, 0]])
    iou = np.array([0.9, 5 / 6, np.nan])
    draw_confusion(tmp_path / "confusion.png", confusion, iou, ["a", "b", "absent"], "title")
    with Image.open(tmp_path / "confusion.png") as image_file:
        pixels = np.asarray(image_file.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 50
