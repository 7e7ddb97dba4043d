"""What a comparison of two models shows: panels, boxes, captions and legends."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pipelines.data.manifest import ClassInfo
from pipelines.figures.comparison import ComparedImage, Regions, difference_legend, draw_comparison

CLASSES = [ClassInfo(name, (10 * index + 40, 0, 200)) for index, name in enumerate("abcde")]
SHAPE = (60, 100)


def compared_image() -> ComparedImage:
    """Return an image of class a. The first model takes three regions of it for class b, the second
    a large and a small one for class c; both are wrong in the lower right corner."""
    label = np.zeros(SHAPE, np.uint8)
    label[55:, :10] = 255
    first, second = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    first[2:12, 10:20] = first[20:40, 10:40] = first[2:17, 50:70] = 1
    first[57:, :10] = 1  # ignored
    second[30:50, 70:90] = second[50:53, 50:54] = 2  # the latter are 12 of 6000 pixels
    first[55:, 95:], second[55:, 95:] = 1, 3
    pixels = np.zeros((*SHAPE, 3), np.uint8)
    pixels[:, :50] = 250
    return ComparedImage("city_1", pixels, label, first, second, (0.5, 0.625))


def draw(
    images: list[ComparedImage], figures: list[Figure], folder: Path
) -> tuple[Figure, list[list[Axes]]]:
    """Draw the figure; return it with its panels by row."""
    notes = ("mIoU 50.0", "mIoU 62.5")
    draw_comparison([folder / "figure.png"], images, CLASSES, ("A", "B"), notes, "title")
    (figure,) = figures
    axes = figure.axes
    return figure, [axes[start : start + 5] for start in range(0, len(axes), 5)]


def test_regions_are_told_apart_on_labeled_pixels() -> None:
    label, first, second = (
        np.array([values], np.uint8)
        for values in ([0, 0, 0, 0, 1, 255], [0, 1, 0, 1, 2, 0], [0, 0, 1, 1, 3, 1])
    )
    regions = Regions.of(label, first, second)
    found = [each[0].astype(int).tolist() for each in (regions.gain, regions.loss, regions.other)]
    assert found == [[0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 1, 0]]


def test_panels_are_in_the_order_of_their_titles(figures: list[Figure], tmp_path: Path) -> None:
    image = compared_image()
    _, (line, below) = draw([image, replace(image, identifier="city_2")], figures, tmp_path)
    titles = [axis.texts[0].get_text() for axis in line]
    assert titles == ["image", "A", "B", "ground truth", "differences"]
    lefts = [axis.get_position().x0 for axis in line]
    assert lefts == sorted(lefts)
    assert line[0].get_position().y0 > below[0].get_position().y1
    assert [axis.get_xlabel() for axis in (line[0], below[0])] == ["city_1", "city_2"]
    shown = [np.asarray(axis.images[0].get_array()) for axis in line]
    assert np.array_equal(shown[0], image.image)
    colors = np.array([entry.color for entry in CLASSES])
    for panel, labels in zip(shown[1:4], (image.first, image.second, image.label), strict=True):
        known = labels != 255
        assert np.array_equal(panel[known], colors[labels[known]])
        assert np.isin(panel[~known], (0, 200)).all()  # striped


def test_differences_have_the_colors_of_the_legend(figures: list[Figure], tmp_path: Path) -> None:
    figure, (line,) = draw([compared_image()], figures, tmp_path)
    classes, kinds = figure.legends
    # Class e is in no panel, and class d in the second prediction only.
    assert [text.get_text() for text in classes.get_texts()] == ["a", "b", "c", "d", "ignored"]
    texts = [text.get_text() for text in kinds.get_texts()]
    assert texts == [
        '"B" right, "A" wrong (solid box)',
        '"A" right, "B" wrong (dashed box)',
        "both wrong, differently",
        "gray image: same prediction, or ignored",
    ]
    gain, loss, other, _ = (
        np.multiply(to_rgb(patch.get_facecolor()), 255).round().tolist()  # type: ignore[attr-defined]
        for patch in kinds.legend_handles
    )
    shown = np.asarray(line[4].images[0].get_array())
    for area, color in (
        ((slice(20, 40), slice(10, 40)), gain),
        ((slice(30, 50), slice(70, 90)), loss),
        ((slice(55, 60), slice(95, 100)), other),
    ):
        assert (shown[area] == color).all(axis=2).mean() >= 0.5
    assert (shown[20:40, 10:40] == gain).all()  # without stripes
    ignored = shown[57:, :10]
    assert (ignored == ignored[..., :1]).all()  # gray


@pytest.mark.parametrize(
    ("pixels", "kinds"),
    [
        (slice(6), ["gain", "loss", "other", "gray image: same prediction, or ignored"]),
        (slice(4), ["gain", "loss", "gray image: same prediction"]),  # all that two classes allow
        ([0, 2, 3], ["loss", "gray image: same prediction"]),
        ([0], ["gray image: same prediction"]),
    ],
)
def test_legend_has_what_occurs(pixels: slice | list[int], kinds: list[str]) -> None:
    """Pixels: both right, gain, loss, the same mistake, different mistakes, ignored."""
    label, first, second = (
        np.array([values], np.uint8)[:, pixels]
        for values in ([0, 0, 0, 0, 0, 255], [0, 1, 0, 1, 1, 0], [0, 0, 1, 1, 2, 1])
    )
    image = ComparedImage("a", np.zeros((*label.shape, 3), np.uint8), label, first, second, (0, 0))
    legend = difference_legend([image], [Regions.of(label, first, second)], ("A", "without flows"))
    texts = {
        "gain": '"without flows" right, "A" wrong (solid box)',
        "loss": '"A" right, "without flows" wrong (dashed box)',
        "other": "both wrong, differently",
    }
    assert [entry.get_label() for entry in legend] == [texts.get(kind, kind) for kind in kinds]


def test_largest_regions_are_boxed_in_every_panel(figures: list[Figure], tmp_path: Path) -> None:
    """(left, top, right, bottom) of the boxes, which may be some pixels wider."""
    _, (line,) = draw([compared_image()], figures, tmp_path)
    for axis in line:
        boxes: dict[str, list[list[float]]] = {"-": [], "--": []}
        for patch in axis.patches:
            assert isinstance(patch, Rectangle)
            kind = "-" if patch.get_linestyle() in ("-", "solid") else "--"
            (left, top), width, height = patch.get_xy(), patch.get_width(), patch.get_height()
            boxes[kind].append([left, top, left + width, top + height])
        assert sorted(boxes) == ["-", "--"]
        assert np.allclose(boxes["-"], [(10, 20, 40, 40), (50, 2, 70, 17)], atol=3)
        assert np.allclose(boxes["--"], [(70, 30, 90, 50)], atol=3)


@pytest.mark.parametrize(
    ("mious", "means", "texts", "bold"),
    [
        ((0.5, 0.625), None, ["mIoU 50.0", "mIoU 62.5", "", "+12.5 points"], 2),
        ((0.625, 0.5), None, ["mIoU 62.5", "mIoU 50.0", "", "-12.5 points"], 1),
        ((0.5, 0.5004), None, ["mIoU 50.0", "mIoU 50.0", "", "+0.0 points"], None),
        (
            (0.5, 0.625),
            (0.75, 0.5),
            ["mIoU 50.0, mean 75.0", "mIoU 62.5, mean 50.0", "", "+12.5 points, mean -25.0"],
            1,
        ),
    ],
)
def test_better_score_is_bold(
    mious: tuple[float, float],
    means: tuple[float, float] | None,
    texts: list[str],
    bold: int | None,
    figures: list[Figure],
    tmp_path: Path,
) -> None:
    image = replace(compared_image(), mious=mious, mean_mious=means)
    _, (line,) = draw([image], figures, tmp_path)
    assert [axis.get_xlabel() for axis in line] == ["city_1", *texts]
    weights = [axis.xaxis.label.get_fontweight() for axis in line]
    assert [index for index, weight in enumerate(weights) if weight == "bold"] == (
        [] if bold is None else [bold]
    )
