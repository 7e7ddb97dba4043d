"""Decodes, encodes and writes images, with errors that say what is wrong with a file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from pipelines.data.files import atomic_file
from pipelines.errors import UserError

Array = NDArray[np.uint8]

# File suffixes of writable image formats.
WRITABLE = (".png", ".jpg", ".jpeg", ".webp", ".tiff", ".bmp")

# A malicious header must not cause gigabytes of allocation; this exceeds any benchmark's images.
Image.MAX_IMAGE_PIXELS = 512 * 1024 * 1024


class ImageError(UserError, ValueError):
    """An image that cannot be used; the message does not name the file."""


def open_image(data: bytes, checksums: bool = False) -> Image.Image:
    """Decode an image completely; `checksums` also verifies the checksums of a PNG.

    Raises:
        ImageError: the data is empty, truncated, damaged or not an image.
    """
    if not data:
        raise ImageError("the file is empty")
    try:
        image = Image.open(io.BytesIO(data))
        if checksums and image.format == "PNG":
            image.verify()
            image = Image.open(io.BytesIO(data))  # a verified image cannot be decoded
        image.load()
    except Image.UnidentifiedImageError:
        raise ImageError("not an image in a supported format (PNG, JPEG, ...)") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises all kinds of errors for damaged headers
        raise ImageError(f"damaged or truncated ({error})") from None
    return image


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) to 8; 1 if the EXIF data is invalid."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # invalid EXIF data raises all kinds of errors; the pixels are intact
        return 1
    return value if value in range(1, 9) else 1


def to_rgb(image: Image.Image) -> Array:
    """Convert an image of any mode to upright uint8 (height, width, 3).

    Gray is repeated, alpha is dropped and 16 bits are reduced to 8.
    """
    upright = image if orientation(image) == 1 else ImageOps.exif_transpose(image)
    if upright.mode in ("I;16", "I;16B", "I;16L", "I"):
        gray = (np.asarray(upright).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=2)
    # Pillow drops the transparency of a palette without a warning only by way of RGBA.
    if upright.mode in ("P", "PA"):
        upright = upright.convert("RGBA")
    return np.asarray(upright.convert("RGB"))


def is_index_image(image: Image.Image) -> bool:
    """Whether an image has one number per pixel: gray, bilevel, or palette indices."""
    return image.mode in ("1", "L", "P", "I;16", "I;16B", "I;16L", "I")


def to_indices(image: Image.Image) -> NDArray[np.uint16]:
    """Return the values of an index image (see `is_index_image`), uint16 (height, width).

    Raises:
        ImageError: a value does not fit in 16 bits.
    """
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"has values from {values.min()} to {values.max()}, expected 0 to 65535; store pixels "
            "to be ignored as 255 instead"
        )
    return values.astype(np.uint16)


def check_writable(path: Path) -> None:
    """Check, before any work, that an image can be written to `path`.

    Raises:
        ImageError: the suffix is no image format, the directory is missing or `path` is one, or
            writing is not permitted.
    """
    if path.suffix.lower() not in WRITABLE:
        raise ImageError(
            f"{path}: images cannot be written as {path.suffix!r}; "
            f"use {', '.join(WRITABLE[:-1])} or {WRITABLE[-1]}"
        )
    if path.is_dir():
        raise ImageError(f"{path}: is a directory, expected a file to write to")
    if not path.parent.is_dir():
        raise ImageError(f"{path}: there is no directory {path.parent}")
    try:
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ImageError(f"{path}: cannot be written ({error.strerror})") from error


def save_image(image: Image.Image, path: Path) -> None:
    """Write an image atomically, in the format of the suffix of `path`."""
    image_format = Image.registered_extensions()[path.suffix.lower()]
    with atomic_file(path, sync=False) as partial:
        image.save(partial, format=image_format)


def encode_png(pixels: NDArray[np.uint8], effort: int = 3) -> bytes:
    """Encode uint8 (height, width) or (height, width, 3) as PNG; `effort` is zlib's level, 0-9."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=effort)
    return buffer.getvalue()


def encode_palette_png(indices: NDArray[np.uint8], colors: Sequence[tuple[int, int, int]]) -> bytes:
    """Encode uint8 (height, width) as a PNG whose palette shows value k as `colors[k]`.

    Values beyond `colors` are shown black. The stored values are the indices.
    """
    image = Image.fromarray(indices)
    palette = [channel for color in colors for channel in color]
    image.putpalette(palette + [0] * (768 - len(palette)))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def encode_jpeg(pixels: Array, quality: int = 90) -> bytes:
    """Encode uint8 (height, width, 3) as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def decode_rgb(data: bytes) -> Array:
    """Decode stored image bytes to uint8 (height, width, 3)."""
    return np.asarray(open_image(data).convert("RGB"))


def decode_indices(data: bytes) -> Array:
    """Decode stored label bytes to class indices, uint8 (height, width)."""
    return np.asarray(open_image(data))
