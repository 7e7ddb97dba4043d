"""Label files of another kind than the reader expects: found, named, and no false alarms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.data.image_io import ImageError
from pipelines.data.manifest import ClassInfo
from pipelines.preparation.labels import class_indices, indices_of_colors, stored_values, voc_color
from pipelines.preparation.readers import READERS
from pipelines.preparation.readers.reader import Record

CAMVID = READERS["camvid"](source=Path())
RECORD = Record("x", "train", Path("x.png"), Path("x-label.png"))
CLASSES = CAMVID.classes
VALUES = CAMVID.values(RECORD)
# Indices of sky, road, tree and void, in a picture of them.
INDICES = np.resize(np.array([0, 3, 5, 11], np.uint8), (6, 8))
COLORS = [entry.color for entry in CLASSES] + [(0, 0, 0)]


def palette_picture(indices: np.ndarray, colors: list[tuple[int, int, int]]) -> Image.Image:
    picture = Image.fromarray(indices.astype(np.uint8))
    picture.putpalette([channel for color in colors for channel in color])
    return picture


def read(picture: Image.Image) -> np.ndarray:
    return class_indices(stored_values(picture, VALUES, CLASSES), VALUES, CLASSES)


def in_colors(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(np.array(COLORS, np.uint8)[INDICES]).convert(mode)


@pytest.mark.parametrize(
    "colors",
    [
        COLORS,  # the data set's own
        [voc_color(index) for index in range(256)],  # for viewing
        [(index, index, index) for index in range(256)],
        [(7 * index, 3, 200) for index in range(12)],
    ],
)
def test_a_palette_that_fits_or_says_nothing_is_no_alarm(
    colors: list[tuple[int, int, int]],
) -> None:
    wanted = np.where(INDICES == 11, 255, INDICES)
    assert np.array_equal(read(palette_picture(INDICES, colors)), wanted)


@given(st.permutations(range(11)).filter(lambda order: order != sorted(order)))
def test_a_palette_in_another_order_is_an_alarm(order: list[int]) -> None:
    picture = palette_picture(np.arange(11)[None], [COLORS[index] for index in order])
    with pytest.raises(ImageError, match="palette image whose colors match the classes") as got:
        read(picture)
    index = next(place for place in range(11) if order[place] != place)
    for part in (f"index {index} is {CLASSES[index].name!r}", CLASSES[order[index]].name):
        assert part in str(got.value)
    assert "label_colors: true" in str(got.value)
    assert "mode L" in str(got.value)
    # What the message advises gives the right classes.
    found = indices_of_colors(np.asarray(picture.convert("RGB")), CLASSES)
    assert found[0].tolist() == order


def test_quantised_colours_are_an_alarm() -> None:
    """What Pillow makes of a colour label that is saved with a palette of its own."""
    picture = in_colors().convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
    with pytest.raises(ImageError, match="palette image whose colors match the classes"):
        read(picture)


@pytest.mark.parametrize(
    ("picture", "sentence"),
    [
        (
            in_colors(),
            "mode RGB.* instead of one index per pixel: the colors of the classes; ",
        ),
        (in_colors("RGBA"), "mode RGBA.*the colors of the classes"),
        (Image.new("RGB", (4, 4), (1, 2, 3)), r"such as \[1, 2, 3\], which no class has"),
        (Image.fromarray(INDICES).convert("RGB"), "all of them gray: .*save a single channel"),
        (Image.fromarray(INDICES).convert("LA"), r"mode LA.*getchannel\(0\)"),
        (in_colors("L"), "gray levels of the classes' colors.*Use the label in colors"),
        (Image.fromarray((INDICES > 3).astype(np.uint8) * 255), None),
        (Image.fromarray(np.full((3, 3), 77, np.uint8)), "unknown values 77 in 9 pixels.*`values`"),
    ],
)
def test_other_kinds_are_named(picture: Image.Image, sentence: str | None) -> None:
    if sentence is None:  # black and white are class 0 and ignored here
        assert set(read(picture).ravel()) == {0, 255}
        return
    with pytest.raises(ImageError, match=sentence):
        read(picture)


def test_a_mask_of_one_class_is_named() -> None:
    mask = Image.fromarray(np.resize(np.array([0, 255], np.uint8), (4, 4)))
    with pytest.raises(ImageError, match="black and white: a mask of one class"):
        class_indices(stored_values(mask, {0: 0, 1: 1}, CLASSES), {0: 0, 1: 1}, CLASSES)


@pytest.mark.parametrize("background", [False, True])
def test_voc_palettes_of_pascal_context_are_no_alarm(background: bool) -> None:
    reader = READERS["pascal-context"](source=Path(), background=background)
    indices = np.arange(60, dtype=np.uint8)[None]
    picture = palette_picture(indices, [voc_color(index) for index in range(256)])
    values = reader.values(RECORD)
    found = class_indices(reader.indices(RECORD, picture), values, reader.classes)
    assert np.array_equal(found[0], [values[index] for index in range(60)])


def test_training_ids_under_the_name_of_label_ids_are_named() -> None:
    reader = READERS["cityscapes"](source=Path())
    record = Record("x", "train", Path("x"), Path("aachen_0_0_gtFine_labelIds.png"))
    picture = Image.fromarray(np.array([[0, 18, 255]], np.uint8))
    with pytest.raises(ImageError, match="255, which is not a label id; if these are training"):
        reader.indices(record, picture)


def test_indices_where_colours_are_expected_are_named() -> None:
    pixels = np.asarray(Image.fromarray(INDICES).convert("RGB"))
    with pytest.raises(ImageError, match=r"such as \[3, 3, 3\].*leave out `label_colors`"):
        indices_of_colors(pixels, [ClassInfo("a", (9, 9, 200)), ClassInfo("b", (200, 9, 9))])
