"""Panels and confusion matrices as image files."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
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


def test_panels_show_the_accuracy_of_labeled_pixels(figures: list[Figure], tmp_path: Path) -> None:
    label = np.array([[0, 0, 1, 1, 255, 255, 255, 255]], np.uint8).repeat(4, axis=0)
    prediction = np.array([[0, 0, 1, 0, 0, 0, 0, 0]], np.uint8).repeat(4, axis=0)
    image = np.full((4, 8, 3), 100, np.uint8)
    draw_panels(tmp_path / "panels.png", [("name", image, label, prediction)], CLASSES, "title")
    (figure,) = figures
    assert figure.axes[3].get_xlabel() == "75.0% of pixels correct"
    shown = {axis.get_title(): np.asarray(axis.images[0].get_array()) for axis in figure.axes}
    assert list(shown) == ["image", "ground truth", "prediction", "mistakes"]
    road, sky = (list(entry.color) for entry in CLASSES)
    ignored = [[0, 0, 0]] * 2 + [[200, 200, 200]] * 2  # stripes
    assert shown["ground truth"][0].tolist() == [road, road, sky, sky, *ignored]
    assert shown["prediction"][0].tolist() == [road, road, sky, *[road] * 5]
    wrong = (shown["mistakes"] != shown["mistakes"][..., :1]).any(axis=2)
    assert wrong[0].tolist() == [False, False, False, True, False, False, False, False]


def test_confusion_matrix_has_shares_of_each_label(figures: list[Figure], tmp_path: Path) -> None:
    confusion = np.array([[90, 9, 1], [0, 50, 0], [0, 0, 0]])
    iou = np.array([0.9, 50 / 59, np.nan])
    draw_confusion(tmp_path / "confusion.png", confusion, iou, ["a", "b", "absent"], "title")
    (figure,) = figures
    matrix, bars = figure.axes
    assert (matrix.get_xlabel(), matrix.get_ylabel()) == ("prediction", "label")
    for labels in (matrix.get_xticklabels(), matrix.get_yticklabels()):
        assert [text.get_text() for text in labels] == ["a", "b", "absent"]
    shares = {text.get_position(): text.get_text() for text in matrix.texts}  # (column, row)
    assert shares == {(0, 0): "90", (1, 0): "9", (2, 0): "1", (1, 1): "100"}
    assert [text.get_text() for text in bars.texts] == ["90.0", "84.7", "absent"]


@pytest.mark.slow
def test_confusion_matrix_with_an_absent_class_is_drawn(tmp_path: Path) -> None:
    confusion = np.array([[90, 10, 0], [0, 50, 0], [0, 0, 0]])
    iou = np.array([0.9, 5 / 6, np.nan])
    draw_confusion(tmp_path / "confusion.png", confusion, iou, ["a", "b", "absent"], "title")
    with Image.open(tmp_path / "confusion.png") as image_file:
        pixels = np.asarray(image_file.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 50


def test_feature_maps_cover_the_image_in_the_order_of_the_steps(
    figures: list[Figure], tmp_path: Path
) -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    values = np.arange(200, dtype=np.float32).reshape(10, 20)
    maps = {"neck": values, "detail": values + 1, "semantic": values - 1}
    features = Features("name", image, maps, np.ones((40, 80), np.uint8))
    draw_features([tmp_path / "features.png"], [features], CLASSES, 4, "title")
    (figure,) = figures
    titles = [axis.texts[0].get_text() for axis in figure.axes]
    assert titles == ["image", "before the flows", "after DF", "after SF", "prediction"]
    for axis, expected in zip(figure.axes[1:4], maps.values(), strict=True):
        (panel,) = axis.images
        assert np.array_equal(panel.get_array(), expected)
        assert np.allclose(panel.get_clim(), np.percentile(expected, (1, 99)))
        assert panel.get_extent() == [-0.5, 79.5, 39.5, -0.5]  # as the image, its first row on top
    assert (np.asarray(figure.axes[4].images[0].get_array()) == CLASSES[1].color).all()
