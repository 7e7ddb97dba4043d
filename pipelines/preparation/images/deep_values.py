"""The stored values of images of more than 8 bits per value."""

from __future__ import annotations

import io
import math
import re
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.data.image_io import ImageError, is_index_image, open_image, stored_form, to_indices
from pipelines.preparation.images.header import DEEP_MODES, read_header
from pipelines.preparation.images.tiff import is_tiff, read_no_data, read_tiff
from pipelines.preparation.images.value_range import ValueRange, measured_range

# Pillow keeps the high byte of each 16-bit value. Read in the other byte order, it keeps the low
# byte, so that two passes give the whole value.
_OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
_WHOLE_BANDS = ("RGB", "RGBA", "RGBX")


def stored_range(data: bytes) -> ValueRange:
    """Return the range of the values of an image of more than 8 bits. Raises ImageError."""
    header = read_header(io.BytesIO(data))
    unknown = header.decodable < header.bands
    values = read_tiff(data) if unknown else deep_values(open_image(data), data)
    check_finite(values)
    return measured_range(values, no_data=declared_no_data(data))


def declared_no_data(data: bytes) -> float | None:
    """Return the value that a file declares to mean no data; None if there is none."""
    return read_no_data(data) if is_tiff(data) else None


def check_finite(values: NDArray[Any]) -> None:
    """Raise ImageError if some values are not numbers, or infinite."""
    finite = np.isfinite(values)
    if not finite.all():
        raise ImageError(
            f"has {finite.size - finite.sum()} values that are not numbers (NaN or infinite); "
            "replace them"
        )


def deep_values(image: Image.Image, data: bytes) -> NDArray[np.generic]:
    """Return the stored values of an image of more than 8 bits: (height, width) or with bands.

    image: of `data`, decoded by `open_image`.
    """
    if "maxval" in image.info:  # Pillow scales the values of a PGM or PPM
        return to_indices(image) if is_index_image(image) else _ppm_values(data)
    if image.mode in DEEP_MODES:
        return np.asarray(image)
    high = np.asarray(image)
    with Image.open(io.BytesIO(data)) as opened:
        rawmode = stored_form(opened)
        kind, _, order = rawmode.partition(";16")
        if kind not in _WHOLE_BANDS or order not in _OTHER_ORDER:
            if is_tiff(data):  # such as one with a plane for each band
                return read_tiff(data)
            raise ImageError(
                f"stores 16-bit values as {rawmode or image.mode}, which cannot be read here; "
                "save it as 16-bit RGB or gray without alpha"
            )
        swapped = f"{kind};16{_OTHER_ORDER[order]}"
        opened.tile = [
            tile._replace(
                args=(swapped, *tile.args[1:]) if isinstance(tile.args, tuple) else swapped
            )
            for tile in opened.tile
        ]
        opened.load()
        low = np.asarray(opened)
    return high.astype(np.uint16) << 8 | low


def _ppm_values(data: bytes) -> NDArray[np.uint16]:
    """Return the values of an intact PPM of 16 bits: uint16 (height, width, 3)."""
    with Image.open(io.BytesIO(data)) as image:
        shape = (image.height, image.width, 3)
        tile = image.tile[0]
    count = math.prod(shape)
    if tile.codec_name == "ppm_plain":
        text = re.sub(rb"#[^\r\n]*", b"", data[tile.offset :])
        values = np.array(text.split()[:count]).astype(np.uint16)
    else:
        values = np.frombuffer(data, ">u2", count, tile.offset).astype(np.uint16)
    return values.reshape(shape)
