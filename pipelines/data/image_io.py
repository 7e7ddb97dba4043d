"""Encoded pictures to arrays and back, with errors that say what is wrong with the file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from pipelines.errors import UserError

Array = NDArray[np.uint8]

# Endings that pictures are written under.
WRITABLE = (".png", ".jpg", ".jpeg", ".webp", ".tiff", ".bmp")

# Decoding a hostile header must not allocate gigabytes; no benchmark's picture comes near this.
Image.MAX_IMAGE_PIXELS = 512 * 1024 * 1024


class PictureError(UserError, ValueError):
    """A picture that cannot be used; the message does not name the file."""


def open_picture(data: bytes, checksums: bool = False) -> Image.Image:
    """Decode a whole picture; `checksums`: compare a PNG's too, which decoding it does not.

    Raises:
        PictureError: it is empty, truncated, damaged or no picture at all.
    """
    if not data:
        raise PictureError("the file is empty")
    try:
        picture = Image.open(io.BytesIO(data))
        if checksums and picture.format == "PNG":
            picture.verify()
            picture = Image.open(io.BytesIO(data))  # a verified picture cannot be decoded
        picture.load()
    except Image.UnidentifiedImageError:
        raise PictureError("not a picture in a format known here (PNG, JPEG, ...)") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises whatever a damaged header leads it to
        raise PictureError(f"damaged or truncated ({error})") from None
    return picture


def orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 where the EXIF data mean nothing."""
    try:
        value = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as with damaged pictures; their pixels are whole
        return 1
    return value if value in range(1, 9) else 1


def to_rgb(picture: Image.Image) -> Array:
    """uint8 (height, width, 3), upright, of any mode: grey repeated, alpha dropped, 16 bit to 8."""
    upright = picture if orientation(picture) == 1 else ImageOps.exif_transpose(picture)
    if upright.mode in ("I;16", "I;16B", "I;16L", "I"):
        grey = (np.asarray(upright).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    # A palette may carry transparency, which Pillow only drops silently by way of RGBA.
    if upright.mode in ("P", "PA"):
        upright = upright.convert("RGBA")
    return np.asarray(upright.convert("RGB"))


def is_index_picture(picture: Image.Image) -> bool:
    """Whether a picture holds one number per pixel: grey, bilevel, or a palette's indices."""
    return picture.mode in ("1", "L", "P", "I;16", "I;16B", "I;16L", "I")


def to_indices(picture: Image.Image) -> NDArray[np.uint16]:
    """uint16 (height, width) of the numbers of an index picture (see `is_index_picture`).

    Raises:
        PictureError: they do not fit 16 bits.
    """
    values = np.asarray(picture)
    if values.min() < 0 or values.max() > 65535:
        raise PictureError(f"values reach {values.min()}..{values.max()}, expected 0..65535")
    return values.astype(np.uint16)


def check_writable(path: Path) -> None:
    """Find out before the work whether a picture can be written to `path`.

    Raises:
        UserError: an ending that names no format, no such directory, or no permission.
    """
    if path.suffix.lower() not in WRITABLE:
        raise UserError(
            f"{path}: pictures cannot be written as {path.suffix!r}; "
            f"use {', '.join(WRITABLE[:-1])} or {WRITABLE[-1]}"
        )
    if path.is_dir():
        raise UserError(f"{path}: is a directory, expected a file to write to")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no directory {path.parent}")
    try:
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture in the format its ending names, whole or not at all."""
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        picture.save(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def encode_png(pixels: NDArray[np.uint8], effort: int = 3) -> bytes:
    """Lossless PNG of uint8 (height, width) or (height, width, 3); `effort`: zlib's level, 0-9."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=effort)
    return buffer.getvalue()


def encode_palette_png(indices: NDArray[np.uint8], colors: Sequence[tuple[int, int, int]]) -> bytes:
    """Lossless PNG of uint8 (height, width) whose viewers show value k as `colors[k]`.

    A value beyond `colors` is shown black; the stored values are the indices themselves.
    """
    picture = Image.fromarray(indices)
    palette = [channel for color in colors for channel in color]
    picture.putpalette(palette + [0] * (768 - len(palette)))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def encode_jpeg(pixels: Array, quality: int = 90) -> bytes:
    """JPEG of uint8 (height, width, 3), for looking at."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def decode_rgb(data: bytes) -> Array:
    """uint8 (height, width, 3) of stored image bytes."""
    return np.asarray(open_picture(data).convert("RGB"))


def decode_indices(data: bytes) -> Array:
    """uint8 (height, width) of stored label bytes (class indices)."""
    return np.asarray(open_picture(data))
