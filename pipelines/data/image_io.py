"""Decodes, encodes and writes images, with errors that say what is wrong with a file."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin
from PIL.PngImagePlugin import PngImageFile

from pipelines.data.files import atomic_file
from pipelines.data.image_format import Pixels
from pipelines.errors import UserError

Array = NDArray[np.uint8]

# File suffixes of writable image formats.
WRITABLE = (".png", ".jpg", ".jpeg", ".webp", ".tiff", ".bmp")

# A malicious header must not cause gigabytes of allocation; this exceeds any benchmark's images.
_BOMB_PIXELS = 512 * 1024 * 1024
Image.MAX_IMAGE_PIXELS = _BOMB_PIXELS  # Pillow warns above it and refuses twice as many


# A marker of JPEG: 0xFF and a code. 0xFF 0x00 is a value of compressed pixels, and the codes
# 0xD0-0xD7 (restart) stand among them.
_JPEG_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_START_OF_IMAGE, _END_OF_IMAGE, _TEMPORARY = b"\xd8", b"\xd9", b"\x01"

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Pillow's name of gray values of 2 or 4 bits, in any order.
_FEW_BITS = re.compile(r"L;([24])")
_SIGNED = 2  # the TIFF sample format


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
        maxval = stated_maximum(image)
        image.load()
        if maxval is not None:
            image.info["maxval"] = maxval
    except Image.UnidentifiedImageError:
        if data[:4] in _TIFF and not _has_directory(data):
            raise ImageError("damaged or truncated (its directory is missing)") from None
        if data[:4] in _TIFF:
            raise ImageError(
                "a TIFF whose number of bands or bits cannot be read here; save it with 1, 3 or 4 "
                "bands of 8 or 16 bits"
            ) from None
        raise ImageError("not an image in a supported format (PNG, JPEG, ...)") from None
    except Image.DecompressionBombError:
        raise ImageError(
            f"has more than {2 * _BOMB_PIXELS // 10**6} million pixels; cut it into tiles"
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises all kinds of errors for damaged headers
        raise ImageError(f"damaged or truncated ({error})") from None
    return image


def _has_directory(data: bytes) -> bool:
    """Whether the first directory of a TIFF, the list of its tags, is within the data."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    start, size, count, entry = (8, 8, 8, 20) if b"+" in data[2:4] else (4, 4, 2, 12)
    offset = int.from_bytes(data[start : start + size], order)
    entries = int.from_bytes(data[offset : offset + count], order)
    return len(data) >= offset + count + entries * entry > offset + count


def check_jpeg_end(data: bytes) -> None:
    """Check that the pixels of a JPEG end with its end-of-image marker; other formats are valid.

    Decoders read the zeros of a half-downloaded file as gray pixels. Bytes after the marker, such
    as a second image, are not looked at.

    Raises:
        ImageError: the marker is missing.
    """
    if not data.startswith(b"\xff\xd8"):
        return
    position = 0
    while marker := _JPEG_MARKER.search(data, position):
        if marker[1] == _END_OF_IMAGE:
            return
        position = marker.end()
        if marker[1] not in (_START_OF_IMAGE, _TEMPORARY):
            # The segment's length counts its own two bytes. A thumbnail in it may have an end.
            position += int.from_bytes(data[position : position + 2])
    raise ImageError("damaged or truncated (no end-of-image marker)")


def stated_maximum(image: Image.Image) -> int | None:
    """Return the largest value that a file can store, if Pillow scales it to white: the one that
    the header of a PGM or PPM states, or that of gray values of 2 or 4 bits."""
    few_bits = _FEW_BITS.match(stored_form(image))
    if few_bits:
        return 2 ** int(few_bits[1]) - 1
    tiles = getattr(image, "tile", [])
    if image.format != "PPM" or not tiles or not isinstance(tiles[0].args, tuple):
        return None
    maxval = tiles[0].args[1]
    return maxval if tiles[0].codec_name.startswith("ppm") else None


def stored_form(image: Image.Image) -> str:
    """Return Pillow's name of the stored form of an image that is not decoded yet; "" if it is
    unknown."""
    tiles = getattr(image, "tile", [])
    arguments = tiles[0].args if tiles else ""
    return str(arguments if isinstance(arguments, str) else (arguments or ("",))[0])


def is_signed(image: Image.Image) -> bool:
    """Whether an image is a TIFF of signed 8-bit values, which Pillow reads as unsigned."""
    if image.mode != "L" or not isinstance(image, TiffImagePlugin.TiffImageFile):
        return False
    return _SIGNED in image.tag_v2.get(TiffImagePlugin.SAMPLEFORMAT, ())


def to_rgb(image: Image.Image) -> Array:
    """Convert a decoded image of any 8-bit mode to uint8 (height, width, 3), as stored.

    Gray is repeated and alpha is dropped.

    Raises:
        ImageError: the image has more than 8 bits per value.
    """
    if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        raise ImageError(f"has more than 8 bits per value (mode {image.mode})")
    # Pillow drops the transparency of a palette without a warning only by way of RGBA.
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def is_index_image(image: Image.Image) -> bool:
    """Whether an image has one number per pixel: gray, bilevel, or palette indices."""
    return image.mode in ("1", "L", "P", "I;16", "I;16B", "I;16L", "I")


def to_indices(image: Image.Image) -> NDArray[np.uint16]:
    """Return the values of an index image (see `is_index_image`), uint16 (height, width).

    The values are those of the file, although Pillow scales those of a PGM, and gray values of 2
    and 4 bits, to 8 or 16 bits, and reads signed values of 8 bits as unsigned.

    Raises:
        ImageError: a value does not fit in 16 bits.
    """
    values = np.asarray(image)
    if is_signed(image):
        values = values.view(np.int8)
    if "maxval" in image.info:
        full = 65535 if image.mode == "I" else 255
        values = np.rint(values.astype(np.float64) * image.info["maxval"] / full).astype(np.int64)
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


def encode_png(pixels: Pixels, effort: int = 3) -> bytes:
    """Encode uint8 (height, width) or (height, width, 3), or uint16 (height, width), as PNG.

    effort: zlib's level, 0 to 9.
    """
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


def encode_channels(pixels: Pixels) -> bytes:
    """Encode uint8 or uint16 (height, width, channels) as a gray PNG of the same bit depth with the
    channels one below another, which every decoder of PNG reads.

    `decode_channels` returns the same array.
    """
    height, width, channels = pixels.shape
    by_channel: Pixels = np.moveaxis(pixels, 2, 0)
    stacked = np.ascontiguousarray(by_channel).reshape(channels * height, width)
    return encode_png(stacked)


def decode_channels(data: bytes, channels: int) -> Pixels:
    """Decode the bytes of `encode_channels` to uint8 or uint16 (height, width, channels).

    Raises:
        ImageError: the data is damaged, or has another number of channels.
    """
    try:
        # Not by `Image.open`, whose limit would count the pixels of all channels; the image's own
        # were checked when it was prepared.
        image = PngImageFile(io.BytesIO(data))
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises all kinds of errors for damaged data
        raise ImageError(f"damaged or truncated ({error})") from None
    if image.mode not in ("L", "I;16") or image.height % channels:
        raise ImageError(f"is no image with {channels} channels one below another")
    stacked = np.asarray(image)
    by_channel = stacked.reshape(channels, image.height // channels, image.width)
    return np.ascontiguousarray(np.moveaxis(by_channel, 0, 2))


def decode_rgb(data: bytes) -> Array:
    """Decode stored image bytes to uint8 (height, width, 3)."""
    return np.asarray(open_image(data).convert("RGB"))


def decode_indices(data: bytes) -> Array:
    """Decode stored label bytes to class indices, uint8 (height, width)."""
    return np.asarray(open_image(data))
