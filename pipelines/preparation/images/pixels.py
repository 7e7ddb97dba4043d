"""Read the pixels of source images, without losing information unnoticed.

Images of more than 8 bits per value, of more than three bands, or of several pages are errors
unless the settings say how to read them.
"""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from pipelines.data.image_format import Pixels
from pipelines.data.image_io import Array, ImageError, check_jpeg_end, open_image, to_rgb
from pipelines.preparation.images.deep_values import (
    check_finite,
    declared_no_data,
    deep_values,
    stored_range,
)
from pipelines.preparation.images.header import (
    COLOR_SPACES,
    TRANSPOSED,
    Header,
    orientation,
    read_header,
    read_orientation,
)
from pipelines.preparation.images.reading import (
    LARGEST_VALUE,
    ImageReading,
    lacks_scale,
    pages_problem,
    scale_advice,
    unreadable,
)
from pipelines.preparation.images.tiff import is_tiff, read_tiff
from pipelines.preparation.images.value_range import ValueRange, measured_range

# The orientation that undoes each one.
_INVERSE = {6: 8, 8: 6}
_PALETTES = ("P", "PA")


@dataclass(frozen=True)
class SourceImage:
    """A decoded image.

    pixels: uint8 or uint16 (height, width, channels). format: Pillow's name. turned: whether the
    file has an EXIF orientation other than upright. as_stored: whether every decoder reads these
    pixels from the file. stored: range of the stored values, if they have more than 8 bits.
    """

    pixels: Pixels
    format: str
    turned: bool
    as_stored: bool
    stored: ValueRange | None


def read_pixels(
    data: bytes,
    reading: ImageReading,
    label_size: tuple[int, ...] | None = None,
    checksums: bool = False,
) -> SourceImage:
    """Decode an image to 8-bit RGB, or to the channels and bits of `reading`.

    8-bit values are kept, gray is repeated, alpha is dropped. Other color spaces and palettes are
    converted before bands are chosen. Where `reading.exif` is None, EXIF orientation is applied
    unless `label_size`, height and width of the label, fits the stored pixels only. `checksums`
    also verifies the checksums of a PNG.

    Raises:
        ImageError: the image is damaged, or cannot be read without loss.
    """
    image, header = _opened(data, checksums)
    problem = unreadable(header, reading)
    if problem is not None:
        raise ImageError(problem)
    problem = lacks_scale(header, reading)
    if problem is not None:
        raise ImageError(problem + scale_advice(stored_range(data), reading))
    bands = reading.chosen_bands
    last_band = max(bands or (min(header.bands, 3),))
    values: NDArray[Any]
    if image is None or (header.tiff and last_band > header.decodable):
        image, values = None, read_tiff(data)
    elif header.depth:
        values = deep_values(image, data)
    elif bands is not None and image.mode in _PALETTES:
        values = _palette_levels(image)
    elif bands is not None and header.bands > 1 and image.mode not in COLOR_SPACES:
        values = np.asarray(image)
    else:
        values = to_rgb(image)
    if values.ndim == 3:
        values = _choose_bands(values, header, bands)
    pixels: NDArray[Any]
    pixels, stored = _converted(
        values, header, reading, declared_no_data(data) if header.depth else None
    )
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], reading.channels, axis=2)
    upright_by_pillow = isinstance(image, TiffImagePlugin.TiffImageFile)
    if image is None or upright_by_pillow:
        number = read_orientation(io.BytesIO(data))
    else:
        number = orientation(image)
    fits_stored = number in TRANSPOSED and label_size == header.size != header.size[::-1]
    apply = reading.exif == "apply" or (reading.exif is None and not fits_stored)
    if upright_by_pillow and not apply:
        pixels = oriented(pixels, _INVERSE.get(number, number))
    elif apply and not upright_by_pillow:
        pixels = oriented(pixels, number)
    name = "TIFF" if image is None else image.format or ""
    alike = name in ("PNG", "JPEG") and image is not None and image.mode == "RGB" and number == 1
    return SourceImage(
        np.ascontiguousarray(pixels),
        format=name,
        turned=number != 1,
        as_stored=alike and not header.depth and bands is None,
        stored=stored,
    )


def _opened(data: bytes, checksums: bool) -> tuple[Image.Image | None, Header]:
    """Return a decoded image and its header; None for a TIFF in a form that Pillow does not know.

    Raises:
        ImageError: the image is damaged.
    """
    header: Header | None = None
    if is_tiff(data):
        with suppress(Exception):  # `open_image` says what is wrong with a damaged file
            header = read_header(io.BytesIO(data))
        if header is not None and header.decodable == 0:
            return None, header
    image = open_image(data, checksums)
    check_jpeg_end(data)
    return image, header or read_header(io.BytesIO(data))


def _choose_bands(
    values: NDArray[Any], header: Header, bands: tuple[int, ...] | None
) -> NDArray[Any]:
    """Return the bands that become channels, red, green and blue if `bands` is None."""
    if bands is None:
        return values[..., :3] if values.shape[2] > 1 else values[..., 0]
    if max(bands) > values.shape[2]:
        raise ImageError(
            f"stores {header.bands} bands, of which {values.shape[2]} can be read here; `bands` "
            f"names band {max(bands)}"
        )
    return values[..., [number - 1 for number in bands]]


def _converted(
    values: NDArray[Any], header: Header, reading: ImageReading, no_data: float | None
) -> tuple[Pixels, ValueRange | None]:
    """Return the values in the bits of the reading, and their range if they have more than 8."""
    if not header.depth:
        return values, None
    check_finite(values)
    stored = measured_range(values, reading.scale, no_data)
    if reading.bits == 8:
        assert reading.scale is not None, "lacks_scale has been checked"
        return _scaled(values, reading.scale), stored
    lowest, highest = stored.full
    if lowest < 0 or highest > LARGEST_VALUE:
        raise ImageError(
            f"has values from {lowest:g} to {highest:g}, of which 16 bits keep 0 to "
            f"{LARGEST_VALUE}; remove `bits` and set `scale`"
        )
    return values.astype(np.uint16), stored


def oriented(pixels: NDArray[Any], number: int) -> NDArray[Any]:
    """Return stored pixels (height, width, bands) as displayed with an EXIF orientation."""
    if number in TRANSPOSED:
        pixels = pixels.swapaxes(0, 1)
    if number in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if number in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _palette_levels(image: Image.Image) -> Array:
    """Return the one band of an image with a palette of grays: uint8 (height, width, 1)."""
    levels = gray_levels(image)
    if levels is None:
        raise ImageError(
            "has a palette of colors, of which no band can be chosen; save it as RGB, or as gray"
        )
    return levels[..., None]


def gray_levels(image: Image.Image) -> Array | None:
    """Return the levels of an 8-bit image, uint8 (height, width); None if it has other colors."""
    pixels = to_rgb(image)
    return None if (pixels != pixels[..., :1]).any() else pixels[..., 0]


def check_single_page(data: bytes) -> None:
    """Raise ImageError if a file, which can be decoded, has several pages or frames."""
    pages = read_header(io.BytesIO(data)).pages
    if pages > 1:
        raise ImageError(pages_problem(pages))


def _scaled(values: NDArray[np.generic], scale: tuple[float, float]) -> Array:
    """Map the values of `scale` to 0 and 255, rounded; values beyond it are clipped."""
    low, high = scale
    shares = (values.astype(np.float64) - low) / (high - low)
    return np.rint(shares.clip(0, 1) * 255).astype(np.uint8)
