"""Read TIFF files with bands that Pillow cannot read, such as red, green, blue and near infrared of
16 bits."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.data.image_io import ImageError

if TYPE_CHECKING:
    from tifffile import TiffFile

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION = 274
_GDAL_NODATA = 42113
_PHOTOMETRIC, _MIN_IS_WHITE = 262, 0
# Kinds of NumPy types, as they are named in messages.
_KINDS = {"u": "unsigned integer", "i": "signed integer", "f": "floating-point"}


@dataclass(frozen=True)
class TiffForm:
    """What the header of a TIFF says.

    size: height and width as stored. depth: what the values are, if they have more than 8 bits.
    bands: number of bands. pages: number of pages. orientation: EXIF orientation, 1 to 8.
    white_is_zero: whether 0 is white (MinIsWhite).
    """

    size: tuple[int, int]
    depth: str
    bands: int
    pages: int
    orientation: int
    white_is_zero: bool


def is_tiff(start: bytes) -> bool:
    """Whether the first bytes of a file are those of a TIFF or BigTIFF."""
    return start[:4] in _MAGIC


def read_tiff_form(file: Path | IO[bytes]) -> TiffForm:
    """Read the header of a TIFF.

    Raises:
        ImageError: the file is damaged, or its values are of another type than numbers.
    """
    with _opened(file) as tiff:
        page = tiff.pages.first
        dtype = np.dtype(page.dtype)
        if dtype.kind not in _KINDS:
            raise ImageError(f"stores {dtype} values; save it with 8 or 16 bits per value")
        tag = page.tags.get(_ORIENTATION)
        orientation = 1 if tag is None else int(tag.value)
        # A reduced copy (an overview) or a mask is no page of its own.
        pages = sum(not int(getattr(each, "subfiletype", 0)) & 0b101 for each in tiff.pages)
        return TiffForm(
            size=(int(page.imagelength), int(page.imagewidth)),
            depth="" if dtype == np.uint8 else f"{8 * dtype.itemsize}-bit {_KINDS[dtype.kind]}",
            bands=int(page.samplesperpixel),
            pages=pages,
            orientation=orientation if orientation in range(1, 9) else 1,
            # Without the tag, tifffile states 0, too.
            white_is_zero=_PHOTOMETRIC in page.tags and page.photometric == _MIN_IS_WHITE,
        )


def read_no_data(data: bytes) -> float | None:
    """Return the value that GDAL's tag declares to mean no data, as the values' type stores it;
    None if there is no tag or it is no number."""
    try:
        with _opened(io.BytesIO(data)) as tiff:
            page = tiff.pages.first
            tag = page.tags.get(_GDAL_NODATA)
            dtype = np.dtype(page.dtype)
        number = float("nan" if tag is None else str(tag.value))
    except (OSError, ValueError):  # such as a form that only Pillow knows
        return None
    if not np.isfinite(number):
        return None
    with np.errstate(over="ignore"):
        return float(dtype.type(number)) if dtype.kind == "f" else number


def read_tiff(data: bytes) -> NDArray[Any]:
    """Return the stored values of the first page, (height, width, bands).

    Raises:
        ImageError: the file is damaged, or compressed by a method that needs another package.
    """
    with _opened(io.BytesIO(data)) as tiff:
        page = tiff.pages.first
        values: NDArray[Any] = page.asarray()
        axes = page.axes
    if axes == "YX":
        return values[..., None]
    if axes not in ("YXS", "SYX"):
        raise ImageError(f"is a TIFF with the axes {axes}; save it as one image with bands")
    return np.moveaxis(values, axes.index("S"), 2)


@contextmanager
def _opened(file: Path | IO[bytes]) -> Iterator[TiffFile]:
    """Open a TIFF, and turn the errors of tifffile into ImageError."""
    from tifffile import TiffFile  # tifffile: needed by few files

    # What it logs about a damaged file would stand on the terminal among the messages.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        with TiffFile(file) as tiff:
            yield tiff
    except (ImageError, MemoryError, OSError):
        raise
    except Exception as error:  # the library and its decoders raise all kinds of errors
        text = str(error).strip("\"'")
        if "imagecodecs" in text:
            method = text.split(">")[0].removeprefix("<COMPRESSION.").split(":")[0]
            raise ImageError(
                f"is compressed by {method}, which needs the package imagecodecs; run: pip install "
                "imagecodecs"
            ) from None
        raise ImageError(f"damaged or truncated ({text})") from None
