"""Incomplete files are recognized: a JPEG by its end-of-image marker, a TIFF by its directory."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.data.image_io import ImageError, check_jpeg_end, open_image

END = b"\xff\xd9"


def encoded(seed: int, **options: Any) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 40, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@given(
    seed=st.integers(0, 99),
    options=st.sampled_from(
        # A thumbnail or a comment may hold an end-of-image marker.
        [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"comment": END}, {"exif": END}]
    ),
    share=st.floats(0, 1),
    trailing=st.binary(max_size=9),
)
def test_zeros_in_place_of_the_rest_are_recognized(
    seed: int, options: dict[str, Any], share: float, trailing: bytes
) -> None:
    data = encoded(seed, **options)
    check_jpeg_end(data + trailing)
    kept = round(2 + share * (len(data) - 4))
    with pytest.raises(ImageError, match=r"damaged or truncated \(no end-of-image marker\)"):
        check_jpeg_end(data[:kept] + bytes(len(data) - kept))


def test_other_formats_have_no_such_marker() -> None:
    check_jpeg_end(b"\x89PNG")
    check_jpeg_end(b"")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@given(
    compression=st.sampled_from(["raw", "tiff_lzw", "tiff_adobe_deflate"]),
    big=st.booleans(),
    share=st.floats(0.05, 0.95),
)
def test_truncated_tiffs_are_truncated(compression: str, big: bool, share: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "TIFF", compression=compression, big_tiff=big)
    data = buffer.getvalue()
    assert np.array_equal(open_image(data), pixels)
    with pytest.raises(ImageError, match=r"^damaged or truncated"):
        open_image(data[: round(share * len(data))])
