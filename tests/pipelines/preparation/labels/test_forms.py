"""Labels that programs read differently, and labels of one source that contradict each other."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.data.dataset import open_dataset
from pipelines.data.image_io import ImageError, open_image
from pipelines.data.manifest import DatasetError
from pipelines.preparation.labels.forms import (
    LabelForms,
    check_one_reading,
    label_forms,
    merged_forms,
    palette_problem,
)
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.folder import Folder
from tests.support.label_sources import SIZE, write_image, write_label

SPLITS = "splits: {train: {images: images, labels: labels}}\n"
TWO = f"classes: {{background: [1, 1, 1], crack: [2, 2, 2]}}\n{SPLITS}"
RED, GREEN, BLUE = (200, 10, 10), (10, 200, 10), (10, 10, 200)


class Source:
    """A `folder` data set in a temporary directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._count = 0

    def add(self, values: list[int], palette: list[tuple[int, int, int]] | None = None) -> None:
        write_image(self.root / f"images/{self._count}.png")
        write_label(self.root / f"labels/{self._count}.png", values, palette)
        self._count += 1

    def prepare(self, description: str) -> list[np.ndarray]:
        """Return the prepared labels."""
        (self.root / "dataset.yaml").write_text(description)
        self._count += 1
        destination = self.root / f"out-{self._count}"
        prepare(Folder(self.root), destination)
        split = open_dataset(destination).split("train")
        return [split.read(index)[1] for index in range(len(split))]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


def test_masks_among_class_indices_are_an_error(source: Source) -> None:
    source.add([0, 0, 255])
    source.add([0, 0, 1])
    source.add([0])
    source.add([255])
    with pytest.raises(DatasetError, match="2 labels have only the values 0 and 255, while 1 oth"):
        source.prepare(TWO)
    with pytest.raises(DatasetError, match=r"`values: {0: background, 1: crack, 255: crack}`, or"):
        source.prepare(f"{TWO}values: {{0: background, 1: crack}}\n")
    labels = source.prepare(f"{TWO}values: {{0: background, 1: crack, 255: crack}}\n")
    assert [np.unique(label).tolist() for label in labels] == [[0, 1], [0, 1], [0], [1]]
    assert (source.prepare(f"{TWO}ignore: 255\n")[3] == 255).all()
    # A label of both shows that 255 is something else than the second class.
    source.add([0, 1, 255])
    assert (source.prepare(TWO)[3] == 255).all()


def test_void_pixels_beside_the_second_class_are_accepted(source: Source) -> None:
    source.add([0, 1, 255])
    source.add([0, 255])
    source.add([0, 1])
    assert np.unique(source.prepare(TWO)[1]).tolist() == [0, 255]
    colors = "classes: {a: [10, 10, 200], b: [200, 10, 10]}\nlabel_colors: true\n" + SPLITS
    for split in ("images", "labels"):
        for file in (source.root / split).iterdir():
            file.unlink()
    source.add([0, 1], [BLUE, (0, 0, 0)])  # black is ignored
    source.add([0, 1], [RED, BLUE])
    assert [np.unique(label).tolist() for label in source.prepare(colors)] == [[0, 255], [0, 1]]


def test_void_pixels_of_more_than_two_classes_are_no_masks(source: Source) -> None:
    source.add([0, 255])
    source.add([0, 1, 2])
    three = TWO.replace("}\nsplits", ", joint: [3, 3, 3]}\nsplits")
    assert np.unique(source.prepare(three)[0]).tolist() == [0, 255]


def test_palettes_that_number_colors_differently_are_an_error(source: Source) -> None:
    """The palettes' colors are none of the classes'; the labels have the same colors."""
    source.add([0, 1], [RED, GREEN])
    source.add([1, 2], [BLUE, RED, GREEN])
    description = f"classes: {{a: [1, 1, 1], b: [2, 2, 2], c: [3, 3, 3]}}\n{SPLITS}"
    with pytest.raises(
        DatasetError, match=r"\[200, 10, 10\] is index 0 in .*labels/0.png, but 1 in"
    ):
        source.prepare(description)
    colors = f"classes: {{a: {list(RED)}, b: {list(GREEN)}, c: {list(BLUE)}}}\nlabel_colors: true\n"
    first, second = source.prepare(colors + SPLITS)
    assert np.array_equal(first, second)


def forms(values: list[int], palette: list[tuple[int, ...]], file: str) -> LabelForms:
    stored = np.array([values], np.uint8)
    image = Image.fromarray(stored)
    image.putpalette([channel for color in palette for channel in color])
    return label_forms(image, stored.astype(np.uint16), Path(file))


def test_one_color_at_two_indices_of_one_palette_is_no_contradiction() -> None:
    """Ignored pixels and the first class are often black."""
    palette = [(0, 0, 0), RED, *[(0, 0, 0)] * 254]
    each = [forms([0, 1], palette[:2], "a"), forms([255], palette, "b"), forms([0], palette, "c")]
    assert palette_problem(merged_forms(each), {}) is None


def test_indices_of_one_meaning_are_no_contradiction() -> None:
    palettes = [(0, 0, 0), RED], [RED, RED, (0, 0, 0)]
    each = [forms([0], palettes[0], "a"), forms([2], palettes[1], "b")]
    assert palette_problem(merged_forms(each), {0: 255, 2: 255}) is None
    assert palette_problem(merged_forms(each), {0: 0, 2: 255}) is not None


@given(st.data())
def test_palettes_contradict_each_other_if_and_only_if_a_used_color_moves(
    data: st.DataObject,
) -> None:
    colors = data.draw(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, unique=True))
    order = data.draw(st.permutations(range(len(colors))))
    used = data.draw(st.lists(st.sampled_from(range(len(colors))), min_size=1))
    # The second label has the same colors as the first, numbered in another order.
    second = [order.index(index) for index in used]
    both = [forms(used, colors, "a"), forms(second, [colors[index] for index in order], "b")]
    problem = palette_problem(merged_forms(both), {})
    assert (problem is None) == (used == second)
    written = json.loads(json.dumps([asdict(each) for each in both]))
    assert merged_forms(map(LabelForms.from_json, written)) == merged_forms(both)


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
@pytest.mark.parametrize("number", range(1, 9))
def test_labels_with_an_orientation_are_refused(kind: str, number: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = number
    buffer = io.BytesIO()
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(buffer, kind, exif=exif)
    data = buffer.getvalue()
    if number == 1:
        check_one_reading(open_image(data), data)
        return
    with pytest.raises(ImageError, match=f"has EXIF orientation {number}, .*save it upright"):
        check_one_reading(open_image(data), data)


@pytest.mark.parametrize("dtype", [np.uint8, np.bool_, np.uint16])
@pytest.mark.parametrize("photometric", ["miniswhite", "minisblack"])
def test_inverted_labels_are_refused(photometric: str, dtype: type) -> None:
    """Pillow inverts the values of up to 8 bits, but not those of 16."""
    values = np.eye(8, 16).astype(dtype)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, photometric=photometric)
    data = buffer.getvalue()
    image = open_image(data)
    if photometric == "minisblack" or dtype == np.uint16:
        check_one_reading(image, data)
        assert np.array_equal(np.asarray(image), values)
        return
    with pytest.raises(ImageError, match=r"0 as white .*; save it with 0 as black"):
        check_one_reading(image, data)
