"""Label maps over images, pixel for pixel."""

from __future__ import annotations

import numpy as np

from pipelines.data.dataset import PreparedDataset
from pipelines.data.manifest import ClassInfo
from pipelines.data.overlays import colorize, mistakes, overlay_labels

CLASSES = [ClassInfo("road", (128, 64, 128)), ClassInfo("sky", (70, 130, 180))]


def test_colorize_uses_class_colors_and_black_for_ignored_pixels() -> None:
    labels = np.array([[0, 1], [255, 0]], np.uint8)
    expected = [[(128, 64, 128), (70, 130, 180)], [(0, 0, 0), (128, 64, 128)]]
    assert np.array_equal(colorize(labels, CLASSES), np.array(expected, np.uint8))


def test_mistakes_are_marked_except_on_ignored_pixels() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    marked = mistakes(image, np.array([[0, 1, 255]], np.uint8), np.array([[0, 0, 0]], np.uint8))
    assert marked[0].tolist() == [[115, 115, 115], [255, 120, 0], [115, 115, 115]]


def test_overlay_leaves_ignored_pixels_unchanged(streets: PreparedDataset) -> None:
    image, label = streets.split("train").read(0)
    label = label.copy()
    label[:3] = 255
    blended = overlay_labels(image, label, streets.manifest.classes)
    assert np.array_equal(blended[label == 255], image[label == 255])
    road = np.array(streets.manifest.classes[0].color)
    expected = (image[label == 0].astype(int) + road) // 2
    assert np.array_equal(blended[label == 0], expected)
