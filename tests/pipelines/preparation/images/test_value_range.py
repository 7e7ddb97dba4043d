"""The range of stored values, and which of them mean no data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.data.dataset import open_dataset
from pipelines.data.manifest import DatasetError
from pipelines.preparation.images.reading import ImageReading, scale_problem
from pipelines.preparation.images.tiff import read_tiff_form
from pipelines.preparation.images.value_range import measured_range, merged_range
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.folder import Folder

NUMBERS = st.lists(st.sampled_from([-9999.0, -3.0, 0.0, 0.5, 1.0, 7.0, 65535.0]), min_size=1)
DESCRIPTION = """classes: {a: [1, 1, 1], b: [2, 2, 2]}
splits: {train: {images: images, labels: labels}}
"""


@given(st.lists(NUMBERS, min_size=1), st.sampled_from([None, (0.0, 2.0)]), st.booleans())
def test_ranges_of_parts_are_those_of_the_whole(
    parts: list[list[float]], scale: tuple[float, float] | None, declared: bool
) -> None:
    no_data = -9999.0 if declared else None
    each = [measured_range(np.array(part), scale, no_data) for part in parts]
    whole = np.concatenate([np.array(part) for part in parts])
    assert merged_range(each) == measured_range(whole, scale, no_data)
    merged = measured_range(whole, scale, no_data)
    kept = np.unique(whole[whole != no_data])
    if len(kept) > 1:
        found = (merged.low, merged.second_low, merged.second_high, merged.high)
        assert found == (kept[0], kept[1], kept[-2], kept[-1])
    assert merged.full == (whole.min(), whole.max())


@given(st.lists(st.tuples(NUMBERS, st.sampled_from([None, 0.0, -9999.0])), min_size=1), st.data())
def test_ranges_may_be_merged_in_parts(
    images: list[tuple[list[float], float | None]], data: st.DataObject
) -> None:
    """Of images of which some declare what means no data."""
    each = [measured_range(np.array(values), None, no_data) for values, no_data in images]
    cut = data.draw(st.integers(0, len(each)))
    assert merged_range([merged_range(each[:cut]), merged_range(each[cut:])]) == merged_range(each)


@pytest.mark.parametrize(
    ("others", "extreme", "plausible"),
    [
        ((0.2, 0.46), -9999, (0.2, 0.46)),
        ((0.2, 0.46), -3.4028235e38, (0.2, 0.46)),
        ((0, 4000), -9999, (0, 4000)),
        ((12, 4000), 65535, (12, 4000)),
        ((-50, 4000), -60, (-60, 4000)),
        ((1000, 4000), 0, (0, 4000)),  # a scale begins at 0 in any case
        ((0, 3000), 4095, (0, 4095)),
    ],
)
def test_isolated_extremes_are_left_out(
    others: tuple[float, float], extreme: float, plausible: tuple[float, float]
) -> None:
    values = np.concatenate([np.linspace(*others, 50), [extreme] * 20])
    stored = measured_range(values)
    assert stored.plausible == plausible
    assert stored.left_out == (() if extreme in plausible else (extreme,))


@pytest.mark.parametrize("extreme", [-9999, -3.4028235e38])
def test_following_the_advice_keeps_the_detail(tmp_path: Path, extreme: float) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    values = np.random.default_rng(0).uniform(0.2, 0.46, (16, 16)).astype(np.float32)
    values[:4] = extreme
    tifffile.imwrite(tmp_path / "images/a.tif", values)
    Image.fromarray(np.eye(16, dtype=np.uint8)).save(tmp_path / "labels/a.png")
    description = tmp_path / "dataset.yaml"
    description.write_text(DESCRIPTION)
    with pytest.raises(DatasetError, match=r"without .*no data\), so that `scale: \[0, 1\]`"):
        prepare(Folder(tmp_path), tmp_path / "out")
    description.write_text(f"{DESCRIPTION}scale: [{extreme:f}, 0.46]\n")
    with pytest.raises(DatasetError, match=r"no detail in any image, .*`scale: \[0, 1\]` in"):
        prepare(Folder(tmp_path), tmp_path / "out")
    description.write_text(f"{DESCRIPTION}scale: [0, 1]\n")
    (note,) = prepare(Folder(tmp_path), tmp_path / "out").notes
    assert "25.00% of them are outside it and were clipped" in note
    pixels, _ = open_dataset(tmp_path / "out").split("train").read(0)
    assert len(np.unique(pixels)) > 40


def test_declared_no_data_is_left_out(tmp_path: Path) -> None:
    """GDAL's tag, of a value that is not isolated."""
    (tmp_path / "images").mkdir()
    values = np.arange(256, dtype=np.float32).reshape(16, 16) - 100
    tifffile.imwrite(tmp_path / "images/a.tif", values, extratags=[(42113, "s", 0, "-100", True)])
    (tmp_path / "dataset.yaml").write_text(DESCRIPTION.replace(", labels: labels", ""))
    with pytest.raises(
        DatasetError, match=r"from -99 to 155 \(without -100, which may mean no data"
    ):
        prepare(Folder(tmp_path), tmp_path / "out")


@pytest.mark.parametrize(
    ("values", "scale", "kept"),
    [
        (np.array([0, 4095]), (0, 4095), True),  # two values only
        (np.array([0] * 9999 + list(range(101, 4000, 39))), (0, 4095), True),  # a black background
        (np.arange(4096), (0, 4095), True),
        (np.append(np.arange(256), [4000] * 20), (0, 255), True),  # exact values, some clipped
        (np.append(np.arange(100) / 100, [-9999.0] * 900), (-9999, 1), False),
        (np.arange(4096), (0, 1), False),
        (np.append(np.linspace(0, 1, 4095), -9999.0), (-9999, 1), False),
    ],
)
def test_scale_is_judged_by_the_bulk_of_the_values(
    values: np.ndarray, scale: tuple[float, float], kept: bool
) -> None:
    problem = scale_problem(ImageReading(scale=scale), measured_range(values, scale))
    assert (problem is None) == kept


def test_sparse_images_keep_the_scale_that_holds_their_values() -> None:
    """Bright objects on a dark background, as in microscopy."""
    values = np.append(np.arange(90_000) % 101, np.linspace(2000, 60_000, 64).round())
    stored = measured_range(values, (0, 65535))
    assert stored.uniform > 0.99
    assert scale_problem(ImageReading(scale=(0, 65535)), stored) is None
    assert scale_problem(ImageReading(scale=(0, 70_000)), stored) is not None
    assert scale_problem(ImageReading(scale=(0, 70_000), bits=16), stored) is None


def test_bands_without_a_photometric_tag_are_no_inverted_gray(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    values = np.arange(5 * 64, dtype=np.uint16).reshape(8, 8, 5)
    tifffile.imwrite(path, values, photometric="minisblack", planarconfig="contig")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages.first.tags[262]
        offset = tag.offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 2] = (65000).to_bytes(2, "little")  # a private tag in its place
    path.write_bytes(content)
    assert not read_tiff_form(path).white_is_zero
