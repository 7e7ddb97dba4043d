"""Images of several bands and 16 bits from their files to a prepared data set."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.data.dataset import PreparedDataset, open_dataset
from pipelines.data.image_format import RGB
from pipelines.data.manifest import DatasetError
from pipelines.data.node_cache import NodeCache
from pipelines.preparation.images.pixels import read_pixels
from pipelines.preparation.images.reading import ImageReading
from pipelines.preparation.inspection import verify
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.folder import Folder
from tests.support.deep_images import write_png16
from tests.support.many_channels import DESCRIPTION, FOUR_BANDS, write_field, write_tiff


def prepared(root: Path, keys: str | None = None) -> PreparedDataset:
    if keys is not None:
        (root / "dataset.yaml").write_text(DESCRIPTION + keys)
    destination = Path(tempfile.mkdtemp(dir=root.parent)) / "set"
    prepare(Folder(root), destination)
    return open_dataset(destination)


def test_four_bands_of_16_bits_are_kept(tmp_path: Path) -> None:
    source = write_field(tmp_path / "source", images=6, size=12)
    dataset = prepared(tmp_path / "source")
    verify(dataset)
    for name in ("train", "val"):
        split = dataset.split(name)
        cached = NodeCache(tmp_path / "cache").decoded(dataset, name)
        for index, identifier in enumerate(split.identifiers):
            for samples in (split, cached):
                image, _ = samples.read(index)
                assert image.dtype == np.uint16
                assert np.array_equal(image, source[identifier])
    images = dataset.manifest.images
    assert (images.channels, images.bits, images.shown) == (4, 16, (4, 3, 2))
    assert images.scale == (0, 4095)  # the smallest usual range that holds all values
    train = np.stack([source[name] for name in dataset.split("train").identifiers]) / 4095
    assert images.mean == pytest.approx(train.mean(axis=(0, 1, 2)), rel=1e-5)
    assert images.std == pytest.approx(train.std(axis=(0, 1, 2)), rel=1e-5)
    everything = np.stack([*source.values()]) / 4095
    assert dataset.manifest.image_mean == pytest.approx(everything.mean(axis=(0, 1, 2)))


@given(
    st.sampled_from([np.uint8, np.uint16]),
    st.integers(1, 6),
    st.tuples(st.integers(2, 9), st.integers(2, 9)),
    st.booleans(),
    st.sampled_from([None, "zlib"]),
    st.integers(0, 9),
)
@example(np.uint16, 4, (4, 5), True, None, 0)
@example(np.uint16, 3, (4, 5), True, None, 0)
@settings(max_examples=8, deadline=None)
def test_any_source_is_read_back_as_it_was(
    dtype: type,
    bands: int,
    size: tuple[int, int],
    planar: bool,
    compression: str | None,
    seed: int,
) -> None:
    generator = np.random.default_rng(seed)
    values = generator.integers(0, np.iinfo(dtype).max + 1, (*size, bands)).astype(dtype)
    bits = 8 * values.itemsize
    numbers = list(range(1, bands + 1))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "source"
        write_field(root, f"bands: {numbers}\nbits: {bits}\n", images=3, size=8)
        for file in root.glob("images/*/*.tif"):
            write_tiff(file, values, planar, compression)
            label = np.zeros(size, np.uint8)
            label[0] = 1
            Image.fromarray(label).save(root / "labels" / file.parent.name / f"{file.stem}.png")
        dataset = prepared(root)
        image, _ = dataset.split("val").read(0)
        assert image.dtype == dtype
        assert np.array_equal(image, values)
        assert dataset.manifest.images.bits == bits
        assert dataset.manifest.images.channels == bands


def test_png_of_four_bands_of_16_bits(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, 4)).astype(np.uint16)
    write_png16(tmp_path / "a.png", values)
    reading = ImageReading(bands=(4, 1, 2, 3), bits=16)
    image = read_pixels((tmp_path / "a.png").read_bytes(), reading)
    assert np.array_equal(image.pixels, values[..., [3, 0, 1, 2]])


def test_orientation_of_a_tiff_that_pillow_cannot_read(tmp_path: Path) -> None:
    values = np.arange(5 * 7 * 4, dtype=np.uint16).reshape(5, 7, 4)
    file = tmp_path / "a.tif"
    tifffile.imwrite(
        file, values, photometric="minisblack", planarconfig="contig", extratags=[(274, 3, 1, 6)]
    )
    for exif, expected in (("ignore", values), ("apply", np.rot90(values, -1))):
        reading = ImageReading(bands=(1, 2, 3, 4), bits=16, exif=exif)
        assert np.array_equal(read_pixels(file.read_bytes(), reading).pixels, expected)


def test_scale_and_normalization_can_be_set(tmp_path: Path) -> None:
    root = tmp_path / "source"
    source = write_field(root, images=3, size=8)
    given = "normalization: {mean: [0.1, 0.2, 0.3, 0.4], std: [1, 1, 1, 0.5]}\n"
    images = prepared(root, FOUR_BANDS + "scale: [1000, 2000]\n" + given).manifest.images
    assert images.scale == (1000, 2000)
    assert (images.mean, images.std) == ((0.1, 0.2, 0.3, 0.4), (1, 1, 1, 0.5))
    clipped = prepared(root, FOUR_BANDS + "scale: [1000, 2000]\n").manifest
    train = [source[name] for name in ("1", "2")]
    unit = ((np.stack(train).astype(float) - 1000) / 1000).clip(0, 1)
    assert clipped.images.std == pytest.approx(unit.std(axis=(0, 1, 2)), rel=1e-5)
    assert "of them are outside it and were clipped" in clipped.notes[0]
    # Three bands of 8 bits keep ImageNet's normalization unless it is set.
    eight = "bands: [4, 2, 1]\nscale: [0, 4095]\n"
    assert prepared(root, eight).manifest.images == RGB
    measured = prepared(root, eight + "normalization: dataset\n").manifest.images
    assert measured.is_stored_as_rgb
    assert measured.mean != RGB.mean


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("", r"stores 4 bands, .*set `bands: \[1, 2, 3, 4\]`"),
        ("bands: [1, 2, 3, 4]\n", r"`scale: \[0, 4095\]` .*, or `bits: 16` to keep them"),
        ("bands: [1, 5]\nbits: 16\n", "stores 4 bands, but `bands` names band 5"),
        ("bands: [1, 2, 2, 3]\n", "bands must be the numbers"),
        ("bits: 12\n", "bits must be 8 or 16, received 12"),
        (FOUR_BANDS + "scale: [0.5, 9]\n", "with bits: 16, scale must be two whole numbers"),
        ("bands: [1, 2]\nrgb: [1, 2, 3]\n", "rgb must be three of the numbers in bands"),
        (FOUR_BANDS + "normalization: imagenet\n", "normalization must be `dataset` or"),
        (FOUR_BANDS + "normalization: {mean: [0, 0], std: [1, 1]}\n", "with 4 numbers each"),
        ("normalization: {mean: [0, 0, 0], std: [1, 0, 1]}\n", "normalization must be `imagenet`"),
        ("normalization: {mean: [123, 116, 103], std: [58, 57, 57]}\n", "for values from 0 to 1"),
    ],
)
def test_settings_that_do_not_fit_are_reported(tmp_path: Path, keys: str, message: str) -> None:
    write_field(tmp_path / "source", images=3, size=8)
    with pytest.raises(DatasetError, match=message):
        prepared(tmp_path / "source", keys)


def test_sources_that_cannot_be_kept_are_reported(tmp_path: Path) -> None:
    root = tmp_path / "source"
    source = write_field(root, images=3, size=8)
    file, values = root / "images/train/1.tif", source["1"]
    for changed, message in (
        (values.astype(np.uint8), "stores 8-bit values, but `bits: 16` in dataset.yaml requires"),
        (values.astype(np.float32), "stores floating-point values, which 16 bits cannot keep"),
        (values.astype(np.int32) - 9999, "of which 16 bits keep 0 to 65535"),
    ):
        write_tiff(file, changed)
        with pytest.raises(DatasetError, match=message):
            prepared(root)
    for each in root.glob("images/train/*.tif"):
        write_tiff(each, np.dstack([values[..., :3], np.full((8, 8), 7, np.uint16)]))
    with pytest.raises(DatasetError, match="band 4 has the same value in every pixel"):
        prepared(root)
