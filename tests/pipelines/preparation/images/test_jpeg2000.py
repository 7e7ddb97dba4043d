"""Bit depths of JPEG 2000 files."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.data.image_io import ImageError
from pipelines.preparation.images.jpeg2000 import ComponentForm, component_forms
from pipelines.preparation.images.pixels import read_pixels
from pipelines.preparation.images.reading import ImageReading

FORMS = st.lists(st.builds(ComponentForm, st.integers(1, 38), st.booleans()), min_size=1)


def codestream(forms: list[ComponentForm]) -> bytes:
    """Return the start of a codestream."""
    depths = b"".join(bytes([each.bits - 1 | each.signed << 7, 1, 1]) for each in forms)
    sizes = struct.pack(">HH8IH", 38 + len(depths), 0, 4, 4, 0, 0, 4, 4, 0, 0, len(forms))
    return b"\xff\x4f\xff\x51" + sizes + depths


def encoded(mode: str, depth: int, bare: bool = False) -> bytes:
    """Return a JPEG 2000 file of 8 bits with another `depth` in its header: bits - 1, and 128 if
    signed."""
    buffer = io.BytesIO()
    size = (16, 16, 3) if mode == "RGB" else (16, 16)
    Image.fromarray(np.zeros(size, np.uint8)).save(buffer, "JPEG2000", no_jp2=bare)
    data = bytearray(buffer.getvalue())
    start = data.index(b"\xff\x4f\xff\x51") + 42
    for component in range(3 if mode == "RGB" else 1):
        data[start + 3 * component] = depth
    return bytes(data)


@given(FORMS, st.binary(max_size=20), st.sampled_from(["short", "long", "open"]))
def test_forms_are_found_behind_other_boxes(
    forms: list[ComponentForm], other: bytes, length: str
) -> None:
    content = codestream(forms)
    assert component_forms(io.BytesIO(content)) == forms
    boxes = struct.pack(">I4s", 8 + len(other), b"jp2h") + other
    boxes += struct.pack(">I4sQ", 1, b"uuid", 16 + len(other)) + other
    head = {
        "short": struct.pack(">I4s", 8 + len(content), b"jp2c"),
        "long": struct.pack(">I4sQ", 1, b"jp2c", 16 + len(content)),
        "open": struct.pack(">I4s", 0, b"jp2c"),
    }[length]
    file = io.BytesIO(boxes + head + content)
    file.seek(3)
    assert component_forms(file) == forms
    assert file.tell() == 3


@given(st.binary(max_size=99), st.booleans())
def test_damaged_files_raise_nothing(data: bytes, in_codestream: bool) -> None:
    data = codestream([])[:4] + data if in_codestream else data
    component_forms(io.BytesIO(data))


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("reading", [ImageReading(), ImageReading(bits=16), ImageReading((0, 9))])
def test_color_of_more_than_8_bits_is_refused(reading: ImageReading, bare: bool) -> None:
    """Pillow keeps 8 of the bits."""
    for bits in (12, 16):
        with pytest.raises(
            ImageError, match=f"{bits}-bit RGB values in JPEG 2000, .*; save it as a"
        ):
            read_pixels(encoded("RGB", bits - 1, bare), reading)
    if reading == ImageReading():
        assert read_pixels(encoded("RGB", 7, bare), reading).pixels.shape == (16, 16, 3)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_signed_values_are_refused(mode: str) -> None:
    with pytest.raises(ImageError, match=r"signed values in JPEG 2000, .*save it as a TIFF or PNG"):
        read_pixels(encoded(mode, 128 | 7), ImageReading())
