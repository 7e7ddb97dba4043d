"""Detection of label files of an unexpected kind, without false positives."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFilter

from pipelines.data.image_io import ImageError, open_image, to_indices
from pipelines.preparation.labels.class_indices import check_lossless, class_indices, stored_values
from pipelines.preparation.labels.colors import indices_of_colors, voc_color
from pipelines.preparation.readers import READERS
from pipelines.preparation.readers.reader import Record
from tests.support.deep_images import encode_few_bits

CAMVID = READERS["camvid"](source=Path())
RECORD = Record("x", "train", Path("x.png"), Path("x-label.png"))
CLASSES = CAMVID.classes
VALUES = CAMVID.values(RECORD)
# A label of the class indices of sky, road, tree and void.
INDICES = np.resize(np.array([0, 3, 5, 11], np.uint8), (6, 8))
COLORS = [entry.color for entry in CLASSES] + [(0, 0, 0)]
INDEX_OF_COLOR = {color: index for index, color in enumerate(COLORS[:-1])} | {(0, 0, 0): 255}


def palette_image(indices: np.ndarray, colors: list[tuple[int, int, int]]) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette([channel for color in colors for channel in color])
    return image


def read(image: Image.Image) -> np.ndarray:
    return class_indices(stored_values(image, VALUES, CLASSES), VALUES, CLASSES)


def in_colors(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(np.array(COLORS, np.uint8)[INDICES]).convert(mode)


@pytest.mark.parametrize(
    "colors",
    [
        COLORS,  # the palette of the data set
        [voc_color(index) for index in range(256)],  # a display palette
        [(index, index, index) for index in range(256)],
        [(7 * index, 3, 200) for index in range(12)],
        # A single color is that of another class by chance.
        [COLORS[4], *[(7 * index, 3, 200) for index in range(1, 12)]],
    ],
)
def test_matching_or_unrelated_palette_is_accepted(
    colors: list[tuple[int, int, int]],
) -> None:
    expected = np.where(INDICES == 11, 255, INDICES)
    assert np.array_equal(read(palette_image(INDICES, colors)), expected)


@given(st.permutations(range(11)).filter(lambda order: order != sorted(order)))
def test_palette_in_another_order_is_rejected(order: list[int]) -> None:
    image = palette_image(np.arange(11)[None], [COLORS[index] for index in order])
    with pytest.raises(ImageError, match="palette image whose colors match the classes") as caught:
        read(image)
    index = next(position for position in range(11) if order[position] != position)
    for part in (f"index {index} is {CLASSES[index].name!r}", CLASSES[order[index]].name):
        assert part in str(caught.value)
    assert "label_colors: true" in str(caught.value)
    assert "mode L" in str(caught.value)
    # Following the advice in the message yields the right classes.
    indices = indices_of_colors(np.asarray(image.convert("RGB")), INDEX_OF_COLOR)
    assert indices[0].tolist() == order


@pytest.mark.parametrize("border", [False, True])
def test_quantized_colors_are_rejected(border: bool) -> None:
    """Pillow quantizes a color label when saving it with an adaptive palette."""
    pixels = np.array(in_colors())
    if border:  # in a color of no class
        pixels[:, 0] = 224, 224, 192
    image = Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE, colors=5)
    with pytest.raises(ImageError, match="palette image whose colors match the classes"):
        read(image)


@pytest.mark.parametrize(
    ("image", "message"),
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
        (
            Image.fromarray(np.full((3, 3), 0.5, np.float32)),
            "values such as 0.5, expected whole.*; fractions are no class indices.*export",
        ),
        (
            Image.fromarray(np.full((3, 3), np.nan, np.float32)),
            r"values such as nan, expected .*`Image.fromarray\(numpy.where\(",
        ),
        (
            Image.fromarray(np.full((3, 3), -1, np.float32)),
            "values such as -1, expected .*; store pixels to be ignored as 255 instead",
        ),
        (Image.fromarray(np.full((3, 3), 65537, np.float32)), "values such as 65537, expected .*;"),
        (Image.fromarray(np.full((3, 3), -1, np.int32)), "from -1 to -1, expected 0 to 65535"),
    ],
)
def test_error_names_the_kind_of_label(image: Image.Image, message: str | None) -> None:
    if message is None:  # in CamVid, 0 is a class and 255 is ignored
        assert set(read(image).ravel()) == {0, 255}
        return
    with pytest.raises(ImageError, match=message):
        read(image)


@pytest.mark.parametrize(
    "change",
    [
        lambda mask: mask.filter(ImageFilter.GaussianBlur(1)),
        lambda mask: mask.resize((50, 37), Image.Resampling.BILINEAR),
        lambda mask: mask.resize((90, 70), Image.Resampling.BICUBIC),
    ],
)
@pytest.mark.parametrize("classes", [2, 3])
def test_smoothed_edges_are_recognized(
    change: Callable[[Image.Image], Image.Image], classes: int
) -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[10:30, 20:50], mask[35:55, 40:70] = 255, [200, 255][classes == 2]
    values = {0: 0, 200: 2, 255: 1} if classes == 3 else {0: 0, 255: 1}
    smoothed = np.asarray(change(Image.fromarray(mask)))
    with pytest.raises(ImageError, match="edges were smoothed or the label was resized"):
        class_indices(smoothed.astype(np.uint16), values, CLASSES)


def test_unknown_classes_are_not_smoothed_edges() -> None:
    blocks = np.repeat(np.repeat(np.arange(12, dtype=np.uint16).reshape(3, 4), 4, 0), 4, 1)
    with pytest.raises(ImageError, match="maps other values with `values` and `ignore`"):
        class_indices(blocks, {0: 0, 1: 1, 11: 255}, CLASSES)


@pytest.mark.parametrize(
    ("lossless", "profile"), [(True, 588), (True, 589), (True, 0), (False, 588), (False, 589)]
)
def test_lossless_webp_is_recognized_behind_a_profile(lossless: bool, profile: int) -> None:
    """profile: its bytes; a byte follows an odd number."""
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    icc = icc.ljust(profile, b"\0")[:profile]
    buffer = io.BytesIO()
    in_colors().save(buffer, "WEBP", lossless=lossless, exact=True, icc_profile=icc)
    image = open_image(buffer.getvalue())
    with nullcontext() if lossless else pytest.raises(ImageError, match="is a WEBP file, a lossy"):
        check_lossless(image, buffer.getvalue())


def test_error_says_how_to_read_a_mask() -> None:
    mask = Image.fromarray(np.resize(np.array([0, 255], np.uint8), (4, 4)))
    with pytest.raises(ImageError, match=r"black and white.*`values: {0: sky, 255: building}`"):
        class_indices(stored_values(mask, {0: 0, 1: 1}, CLASSES), {0: 0, 1: 1}, CLASSES)


def test_whole_floating_point_numbers_are_indices() -> None:
    image = Image.fromarray(INDICES.astype(np.float32))
    assert np.array_equal(read(image), np.where(INDICES == 11, 255, INDICES))


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, 10.0, np.nan, 0.5]), min_size=1, max_size=6))
def test_advice_for_floating_point_labels_keeps_every_value(numbers: list[float]) -> None:
    values = np.array([numbers], np.float32)
    expected = [255 if np.isnan(number) else int(number) for number in numbers]
    try:
        read(Image.fromarray(values))
    except ImageError as error:
        advice = str(error).partition("`Image.fromarray(")[2].partition(").save(")[0]
        assert bool(advice) == (0.5 not in numbers)
        if advice:
            followed = eval(advice, {"numpy": np, "values": values})
            assert read(Image.fromarray(followed))[0].tolist() == expected
    else:
        assert not np.isnan(values).any()


def test_value_that_is_advised_for_unlabeled_pixels_is_no_class() -> None:
    image = Image.fromarray(np.array([[0, np.nan, 255]], np.float32))
    with pytest.raises(ImageError, match="store 254 in their place, list it in `ignore`"):
        stored_values(image, {0: 0, 255: 1}, CLASSES)


@given(st.data(), st.sampled_from([1, 2, 4, 8]), st.integers(1, 254))
def test_gray_of_few_bits_is_read_as_stored_or_refused(
    data: st.DataObject, bits: int, classes: int
) -> None:
    """Pillow stretches values of 2 and 4 bits to 8 bits."""
    values = {**{index: index for index in range(classes)}, 255: 255}
    known = [value for value in values if value < 2**bits]
    stored = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=9))
    image = open_image(encode_few_bits(np.array([stored], np.uint8), bits))
    factor = {2: 85, 4: 17}.get(bits, 1)
    if max(stored) and all(value * factor in values for value in stored) and factor > 1:
        with pytest.raises(ImageError, match=rf"stores gray in {bits} bits, .*8 bits per value"):
            stored_values(image, values, CLASSES)
    else:
        assert stored_values(image, values, CLASSES)[0].tolist() == stored


@given(st.lists(st.integers(-128, 127), min_size=1, max_size=9))
def test_signed_values_of_8_bits_are_not_read_as_unsigned(stored: list[int]) -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.array([stored], np.int8))
    image = open_image(buffer.getvalue())
    if min(stored) < 0:
        with pytest.raises(ImageError, match=f"values from {min(stored)} to .*store pixels to be"):
            to_indices(image)
    else:
        assert to_indices(image)[0].tolist() == stored


@pytest.mark.parametrize(
    ("encoder", "options", "lossy"),
    [
        ("PNG", {}, False),
        ("BMP", {}, False),
        ("GIF", {}, False),
        ("TIFF", {}, False),
        ("TIFF", {"compression": "tiff_lzw"}, False),
        ("TIFF", {"compression": "jpeg"}, True),
        ("WEBP", {"lossless": True}, False),
        ("WEBP", {"quality": 100}, True),
        ("JPEG", {"quality": 100}, True),
    ],
)
def test_lossy_formats_are_rejected(encoder: str, options: dict[str, Any], lossy: bool) -> None:
    buffer = io.BytesIO()
    mode = "RGB" if encoder == "WEBP" else "L"
    Image.fromarray(INDICES).convert(mode).save(buffer, encoder, **options)
    picture = open_image(buffer.getvalue())
    if not lossy:
        check_lossless(picture, buffer.getvalue())
        return
    with pytest.raises(ImageError, match=f"is a {encoder}.*lossy.*export the labels again as PNG"):
        check_lossless(picture, buffer.getvalue())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pascal-context", {"background": False}),
        ("pascal-context", {"background": True}),
        ("coco-stuff", {}),  # its classes have the colors of the values after theirs
    ],
)
def test_voc_palettes_are_accepted(name: str, options: dict[str, bool]) -> None:
    reader = READERS[name](source=Path(), **options)
    values = reader.values(RECORD)
    image = palette_image(np.array([[*values]]), [voc_color(index) for index in range(256)])
    mapped = class_indices(reader.indices(RECORD, image), values, reader.classes)
    assert np.array_equal(mapped[0], [*values.values()])


def test_training_ids_in_a_label_ids_file_are_rejected() -> None:
    reader = READERS["cityscapes"](source=Path())
    record = Record("x", "train", Path("x"), Path("aachen_0_0_gtFine_labelIds.png"))
    image = Image.fromarray(np.array([[0, 18, 255]], np.uint8))
    with pytest.raises(ImageError, match="255, which is not a label id; if these are training"):
        reader.indices(record, image)
