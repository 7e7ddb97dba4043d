"""Pixels of source images of any bit depth, number of bands and orientation."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from tifffile import imwrite

from pipelines.data.image_io import ImageError, open_image, to_indices
from pipelines.preparation.images.deep_values import stored_range
from pipelines.preparation.images.header import read_orientation
from pipelines.preparation.images.pixels import oriented, read_pixels
from pipelines.preparation.images.reading import ImageReading
from tests.support.deep_images import png_chunk, write_png16, write_tiff16

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint((values.astype(float) - low) / (high - low) * 255).clip(0, 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_gray_values_of_12_bits_are_scaled(kind: str) -> None:
    values = RNG.integers(0, 4096, (6, 9)).astype(np.uint16)
    data = encoded(Image.fromarray(values), kind)
    image = read_pixels(data, ImageReading(scale=(0, 4095)))
    assert np.array_equal(image.pixels, np.repeat(scaled(values, 0, 4095)[..., None], 3, axis=2))
    assert image.stored is not None
    assert (image.stored.low, image.stored.high) == (values.min(), values.max())
    with pytest.raises(ImageError, match=r"16-bit gray .*`scale: \[0, 4095\]` in dataset.yaml"):
        read_pixels(data, ImageReading(file="dataset.yaml"))
    with pytest.raises(ImageError, match=r"--scale=0,4095 may be right"):
        read_pixels(data, ImageReading(file=""))


def test_signed_values_of_8_bits_need_a_scale() -> None:
    """Pillow reads -1 as 255."""
    values = RNG.integers(-128, 128, (6, 9)).astype(np.int8)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values)
    data = buffer.getvalue()
    with pytest.raises(ImageError, match=r"8-bit signed integer values, and no scale says"):
        read_pixels(data, ImageReading())
    pixels = read_pixels(data, ImageReading(scale=(-128, 127))).pixels
    assert np.array_equal(pixels[..., 0], values.astype(int) + 128)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.uint32])
@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 5)])
def test_zero_as_white_is_inverted_or_refused(dtype: type, shape: tuple[int, ...]) -> None:
    """Pillow inverts gray values of 8 bits, and no others."""
    values = RNG.integers(0, 200, shape).astype(dtype)
    buffer = io.BytesIO()
    planes = "contig" if len(shape) == 3 else None
    tifffile.imwrite(buffer, values, photometric="miniswhite", planarconfig=planes)
    scale = None if dtype == np.uint8 else (0, 200)
    bands = None if len(shape) == 2 else (1, 2, 3)
    reading = ImageReading(scale=scale, bands=bands)
    if dtype == np.uint8 and len(shape) == 2:
        assert np.array_equal(read_pixels(buffer.getvalue(), reading).pixels[..., 0], 255 - values)
        return
    with pytest.raises(ImageError, match=r"0 as white .*; save it with 0 as black"):
        read_pixels(buffer.getvalue(), reading)


def test_clipped_values_are_counted() -> None:
    values = np.array([[-5, 0, 50], [100, 101, 300]], np.int32)
    image = read_pixels(encoded(Image.fromarray(values), "TIFF"), ImageReading(scale=(0, 100)))
    assert image.pixels[..., 0].tolist() == [[0, 0, 128], [255, 255, 255]]
    assert image.stored is not None
    assert (image.stored.clipped, image.stored.values) == (3, 6)


def test_floating_point_values_are_scaled() -> None:
    values = RNG.random((6, 9)).astype(np.float32)
    data = encoded(Image.fromarray(values), "TIFF")
    pixels = read_pixels(data, ImageReading(scale=(0, 1))).pixels
    assert np.array_equal(pixels[..., 1], scaled(values, 0, 1))
    with pytest.raises(ImageError, match=r"floating-point gray .*`scale: \[0, 1\]`"):
        read_pixels(data, ImageReading())
    values[2, 3] = np.nan
    with pytest.raises(ImageError, match="has 1 values that are not numbers"):
        read_pixels(encoded(Image.fromarray(values), "TIFF"), ImageReading(scale=(0, 1)))


@given(st.binary(min_size=2 * 4 * 3 * 2, max_size=2 * 4 * 3 * 2))
@settings(max_examples=20, deadline=None)
@pytest.mark.slow
def test_all_16_bits_of_colors_are_read(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes
) -> None:
    """A narrow scale shows the low byte, which Pillow drops."""
    path = tmp_path_factory.getbasetemp() / "deep"
    values = np.frombuffer(raw, np.uint16).reshape(2, 4, 3)
    for scale in ((0, 65535), (0, 255), (256, 512)):
        reading, expected = ImageReading(scale=scale), scaled(values, *scale)
        write_png16(path, values)
        assert np.array_equal(read_pixels(path.read_bytes(), reading).pixels, expected)
        write_png16(path, np.dstack([values, values[..., :1]]))
        assert np.array_equal(read_pixels(path.read_bytes(), reading).pixels, expected)
        for order in "<>":
            for deflate in (False, True):
                write_tiff16(path, values, order, deflate)
                assert np.array_equal(read_pixels(path.read_bytes(), reading).pixels, expected)


def test_unreadable_16_bit_image_is_an_error(tmp_path: Path) -> None:
    write_png16(tmp_path / "gray-alpha.png", np.zeros((2, 3, 2), np.uint16))
    with pytest.raises(ImageError, match="stores 16-bit values as LA;16B, which cannot be read"):
        read_pixels((tmp_path / "gray-alpha.png").read_bytes(), ImageReading(scale=(0, 4095)))


def test_bands_of_a_tiff_are_chosen() -> None:
    four = np.dstack([RGB, RNG.integers(0, 256, RGB.shape[:2], dtype=np.uint8)])
    data = encoded(Image.fromarray(four), "TIFF")
    with pytest.raises(ImageError, match=r"stores 4 bands, .*`bands: \[1, 2, 3, 4\]`"):
        read_pixels(data, ImageReading())
    assert np.array_equal(read_pixels(data, ImageReading(bands=(1, 2, 3))).pixels, RGB)
    pixels = read_pixels(data, ImageReading(bands=(4, 1, 2))).pixels
    assert np.array_equal(pixels, four[..., [3, 0, 1]])
    with pytest.raises(ImageError, match="stores 3 bands, but `bands` names band 4"):
        read_pixels(encoded(Image.fromarray(RGB)), ImageReading(bands=(4, 1, 2)))
    # The fourth channel of a PNG is transparency.
    assert np.array_equal(read_pixels(encoded(Image.fromarray(four)), ImageReading()).pixels, RGB)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "PNG"])
def test_several_pages_are_an_error(kind: str) -> None:
    page = Image.fromarray(RGB)
    others = [Image.fromarray(255 - RGB), Image.fromarray(RGB // 2)]
    data = encoded(page, kind, save_all=True, append_images=others)
    with pytest.raises(ImageError, match="has 3 pages or frames"):
        read_pixels(data, ImageReading())


def test_overviews_of_a_tiff_are_not_pages() -> None:
    overview = Image.fromarray(RGB[::2, ::2])
    overview.encoderinfo = {"tiffinfo": {254: 1}}
    page = Image.fromarray(RGB)
    data = encoded(page, "TIFF", save_all=True, append_images=[overview])
    assert np.array_equal(read_pixels(data, ImageReading()).pixels, RGB)


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_orientation_is_applied_or_ignored(kind: str, number: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = number
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(RGB), kind, exif=exif, **options)
    with Image.open(io.BytesIO(data)) as image:
        displayed = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(oriented(RGB, number), displayed)
    assert read_orientation(io.BytesIO(data)) == number
    assert np.array_equal(read_pixels(data, ImageReading(exif="apply")).pixels, displayed)
    assert np.array_equal(read_pixels(data, ImageReading(exif="ignore")).pixels, RGB)
    for size in (RGB.shape[:2], displayed.shape[:2]):
        assert read_pixels(data, ImageReading(), size).pixels.shape[:2] == size


def test_orientation_behind_the_pixels_of_a_png_is_read() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    data = encoded(Image.fromarray(RGB))
    end = data.index(b"IEND") - 4
    late = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    data = data[:end] + late + data[end:]
    assert read_orientation(io.BytesIO(data)) == 3
    assert np.array_equal(read_pixels(data, ImageReading(exif="apply")).pixels, RGB[::-1, ::-1])


@given(st.integers(1, 65535), st.data())
@settings(max_examples=30, deadline=None)
def test_values_of_a_pgm_are_those_of_its_file(maxval: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, maxval), min_size=6, max_size=6))
    plain = f"P2 3 2 {maxval}\n{' '.join(map(str, values))}\n".encode()
    kind = ">u1" if maxval < 256 else ">u2"
    binary = f"P5 3 2 {maxval}\n".encode() + np.array(values, kind).tobytes()
    for file in (plain, binary):
        assert to_indices(open_image(file)).ravel().tolist() == values


@pytest.mark.parametrize("data", [b"P1 3 1\n1 0 1\n", b"P4 3 1\n\xa0"])
def test_black_is_0_in_a_pbm(data: bytes) -> None:
    """Although the format stores it as 1."""
    assert to_indices(open_image(data)).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("maxval", [4095, 65535])
@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("plain", [False, True], ids=["binary", "plain"])
def test_scale_means_the_values_of_a_pgm_or_ppm(plain: bool, bands: int, maxval: int) -> None:
    values = RNG.integers(0, maxval + 1, (6, 9, bands)).astype(np.uint16)
    kind = {(1, False): "P5", (3, False): "P6", (1, True): "P2", (3, True): "P3"}[bands, plain]
    text = "# 7 8 9\n" + " ".join(map(str, values.ravel().tolist()))
    body = text.encode() if plain else values.astype(">u2").tobytes()
    data = f"{kind} 9 6 {maxval}\n".encode() + body
    found = stored_range(data)
    assert (found.low, found.high) == (values.min(), values.max())
    image = read_pixels(data, ImageReading(scale=(0, maxval)))
    expected = np.broadcast_to(scaled(values, 0, maxval), (6, 9, 3))
    assert np.array_equal(image.pixels, expected)
    assert image.stored is not None
    assert (image.stored.high, image.stored.clipped) == (values.max(), 0)
    stored = read_pixels(data, ImageReading(bits=16)).pixels
    assert np.array_equal(stored, np.broadcast_to(values, (6, 9, 3)))
    with pytest.raises(ImageError, match=rf"they range from {values.min()} to {values.max()}, so"):
        read_pixels(data, ImageReading())


def test_huge_and_unknown_tiffs_are_explained() -> None:
    header = b"IHDR" + (40000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    data = b"\x89PNG\r\n\x1a\n" + png_chunk(header[:4], header[4:])
    data += png_chunk(b"IDAT", b"")
    with pytest.raises(ImageError, match="more than 1073 million pixels; cut it into tiles"):
        open_image(data)
    buffer = io.BytesIO()
    imwrite(buffer, np.zeros((4, 6, 5), np.uint16), photometric="rgb", planarconfig="contig")
    with pytest.raises(ImageError, match="a TIFF whose number of bands or bits"):
        open_image(buffer.getvalue())
    with pytest.raises(ImageError, match=r"damaged or truncated .its directory is missing"):
        open_image(b"II*\0" + bytes(20))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_truncated_tiffs_are_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """tifffile logs what it finds, which would stand on the terminal among the messages."""
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "TIFF", compression="tiff_lzw")
    data = buffer.getvalue()
    with pytest.raises(ImageError, match="damaged or truncated"):
        read_pixels(data[: len(data) // 2], ImageReading(file=""))
    assert caplog.records == []
