"""Bands of source images whose stored bands are no channels: color spaces and palettes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipelines.data.image_io import ImageError
from pipelines.preparation.images.pixels import read_pixels
from pipelines.preparation.images.reading import ImageReading

RNG = np.random.default_rng(0)


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "TIFF"), ("CMYK", "JPEG"), ("YCbCr", "TIFF")])
def test_bands_of_another_color_space_are_red_green_and_blue(mode: str, kind: str) -> None:
    flat = Image.new("RGB", (9, 6), (200, 30, 10))
    data = encoded(flat.convert(mode), kind)
    for reading, expected in (
        (ImageReading(), (200, 30, 10)),
        (ImageReading(bands=(1, 2, 3)), (200, 30, 10)),
        (ImageReading(bands=(3, 1)), (10, 200)),
        (ImageReading(bands=(2,)), (30,)),
        (ImageReading(model_channels=3), (200, 30, 10)),
    ):
        pixels = read_pixels(data, reading).pixels
        assert np.abs(pixels.astype(int) - expected).max() <= 3
    with pytest.raises(ImageError, match="stores 3 bands, but the model takes 4"):
        read_pixels(data, ImageReading(model_channels=4))
    with pytest.raises(ImageError, match="stores 3 bands, but `bands` names band 4"):
        read_pixels(data, ImageReading(bands=(1, 2, 3, 4)))


@pytest.mark.parametrize("bands", [None, (1, 2, 3)])
def test_inks_of_16_bits_are_an_error(tmp_path: Path, bands: tuple[int, ...] | None) -> None:
    file = tmp_path / "a.tif"
    tifffile.imwrite(file, np.zeros((5, 7, 4), np.uint16), photometric="separated")
    with pytest.raises(ImageError, match=r"stores 16-bit CMYK values, .* save it as 16-bit RGB"):
        read_pixels(file.read_bytes(), ImageReading(bands=bands, scale=(0, 4095)))


@pytest.mark.parametrize(
    ("mode", "kind"), [("P", "PNG"), ("P", "GIF"), ("P", "TIFF"), ("PA", "TIFF")]
)
def test_palette_has_one_band_if_it_is_gray(mode: str, kind: str) -> None:
    """Its indices are in no order."""
    gray = RNG.choice([3, 7, 200], (6, 9)).astype(np.uint8)
    colored = (
        Image.fromarray(RNG.integers(0, 2, (6, 9, 3), np.uint8) * 255).quantize(8).convert(mode)
    )
    data = encoded(Image.fromarray(gray).convert("RGB").quantize(4).convert(mode), kind)
    one_band = ImageReading(bands=(1,))
    assert np.array_equal(read_pixels(data, one_band).pixels, gray[..., None])
    with pytest.raises(ImageError, match="has a palette of colors, of which no band can be chosen"):
        read_pixels(encoded(colored, kind), one_band)
    if mode == "P":
        with pytest.raises(ImageError, match="has a palette of colors"):
            read_pixels(encoded(colored, kind), ImageReading(model_channels=1, file=""))
        pixels = read_pixels(encoded(colored, kind), ImageReading()).pixels
        assert np.array_equal(pixels, np.asarray(colored.convert("RGB")))
