"""Read the header of an image file: size, bit depth, bands, pages, EXIF orientation."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from PIL import ExifTags, Image, TiffImagePlugin

from pipelines.data.image_io import is_signed, stated_maximum, stored_form
from pipelines.preparation.images.jpeg2000 import component_forms
from pipelines.preparation.images.tiff import is_tiff, read_tiff_form

# EXIF orientations that exchange height and width.
TRANSPOSED = range(5, 9)
# Modes of one value per pixel of more than 8 bits.
DEEP_MODES = {
    "I;16": "16-bit gray",
    "I;16B": "16-bit gray",
    "I;16L": "16-bit gray",
    "I": "integer gray",
    "F": "floating-point gray",
}
# Modes that are converted to red, green and blue: their own bands are no channels.
COLOR_SPACES = ("CMYK", "HSV", "LAB", "YCbCr")
# Of all TIFF files with 0 as white, Pillow inverts those of 8 bits only.
WHITE_IS_ZERO = (
    "stores 0 as white (MinIsWhite), which is read here in gray of up to 8 bits only; save it with "
    "0 as black (MinIsBlack)"
)


@dataclass(frozen=True)
class Header:
    """What the header of an image file says.

    size: height and width as stored. depth: what the values are, if they have more than 8 bits.
    bands: number of bands, 3 for all COLOR_SPACES. tiff: whether bands may have any meaning. pages:
    number of pages or frames. alpha: whether the image has transparency. decodable: number of bands
    that Pillow decodes, 0 if it does not know the form; the others of a TIFF are read by
    `tiff.read_tiff`. problem: why the stored values cannot be read, as the end of a sentence; "" if
    they can.
    """

    size: tuple[int, int]
    depth: str
    bands: int
    tiff: bool
    pages: int
    alpha: bool
    decodable: int
    problem: str = ""


def read_header(file: Path | IO[bytes]) -> Header:
    """Read an image's header. Raises OSError, ImageError or another error if it is damaged."""
    try:
        return _read_by_pillow(file)
    except Image.UnidentifiedImageError:
        if not _is_tiff_file(file):
            raise
    form = read_tiff_form(file)
    problem = WHITE_IS_ZERO if form.white_is_zero else ""
    return Header(form.size, form.depth, form.bands, True, form.pages, False, 0, problem)


def _is_tiff_file(file: Path | IO[bytes]) -> bool:
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return is_tiff(opened.read(4))
    file.seek(0)
    start = file.read(4)
    file.seek(0)
    return is_tiff(start)


def _read_by_pillow(file: Path | IO[bytes]) -> Header:
    with Image.open(file) as image:
        rawmode = stored_form(image)
        depth = DEEP_MODES.get(image.mode, "")
        bands = decodable = len(image.getbands())
        pages = getattr(image, "n_frames", 1)
        tiff = isinstance(image, TiffImagePlugin.TiffImageFile)
        height, width = image.height, image.width
        problem = ""
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            bands = int(image.tag_v2.get(TiffImagePlugin.SAMPLESPERPIXEL, bands))
            if bands > 1 and image.mode.startswith("I;16"):
                # Bands of 16 bits in planes: Pillow opens them, but does not decode them.
                raise Image.UnidentifiedImageError("16-bit bands in planes")
            if is_signed(image):
                raise Image.UnidentifiedImageError("signed values, which Pillow reads as unsigned")
            if max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (8,))) > 8 and not depth:
                depth = f"16-bit {image.mode}"
            if depth and image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
                problem = WHITE_IS_ZERO
            # Pillow states the size of the upright image.
            if image.tag_v2.get(ExifTags.Base.Orientation) in TRANSPOSED:
                height, width = width, height
            if pages > 1:
                pages = _full_pages(image)
        elif image.format == "MPO":
            pages = 1  # a photo with its depth map or its small preview
        elif image.format == "JPEG2000" and image.fp is not None:
            problem = _jpeg2000_problem(image, image.fp)
        elif not depth and (
            (image.format == "PNG" and ";16" in rawmode) or (stated_maximum(image) or 0) > 255
        ):
            depth = f"16-bit {image.mode}"
        if image.mode in COLOR_SPACES:
            bands, decodable, tiff = 3, 3, False
        alpha = image.has_transparency_data
    return Header((height, width), depth, bands, tiff, pages, alpha, decodable, problem)


def _jpeg2000_problem(image: Image.Image, file: IO[bytes]) -> str:
    """Return what Pillow would change in the values of a JPEG 2000 file; "" if it is nothing."""
    forms = component_forms(file)
    bits = max((form.bits for form in forms), default=8)
    save = "save it as a TIFF or PNG"
    if any(form.signed for form in forms):
        return f"stores signed values in JPEG 2000, which are not read here; {save}"
    if bits > 8 and image.mode not in DEEP_MODES:
        return (
            f"stores {bits}-bit {image.mode} values in JPEG 2000, of which only 8 bits would be "
            f"read; {save} of 16 bits"
        )
    return ""


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) to 8; 1 if the EXIF data is invalid."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # invalid EXIF data raises all kinds of errors; the pixels are intact
        return 1
    return value if value in range(1, 9) else 1


def read_orientation(file: Path | IO[bytes]) -> int:
    """Return the EXIF orientation of an image file, decoding its pixels only where necessary."""
    try:
        opened = Image.open(file)
    except Image.UnidentifiedImageError:
        if not _is_tiff_file(file):
            raise
        return read_tiff_form(file).orientation
    with opened as image:
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            value = image.tag_v2.get(ExifTags.Base.Orientation, 1)
            return value if value in range(1, 9) else 1
        searched = image.fp if image.format == "PNG" and "exif" not in image.info else None
        # Pillow would decode a PNG's pixels to look for metadata behind them.
        if searched is not None and not _has_late_metadata(searched):
            return 1
        return orientation(image)


def _full_pages(image: TiffImagePlugin.TiffImageFile) -> int:
    """Count the pages that are neither a reduced copy (an overview) nor a mask of another."""
    pages = 0
    for index in range(image.n_frames):
        image.seek(index)
        pages += not int(image.tag_v2.get(ExifTags.Base.NewSubfileType, 0)) & 0b101
    image.seek(0)
    return pages


def _has_late_metadata(file: IO[bytes]) -> bool:
    """Whether a PNG has chunks that may hold EXIF data behind its pixels."""
    file.seek(8)
    after_pixels = False
    while len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        after_pixels |= kind == b"IDAT"
        if after_pixels and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
            return True
        file.seek(length + 4, io.SEEK_CUR)
    return False
