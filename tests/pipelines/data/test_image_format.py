"""Images of any number of channels: their stored form, and the identity of their data sets."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from pipelines.data.dataset import open_dataset
from pipelines.data.image_format import RGB, ImageFormat
from pipelines.data.image_io import ImageError, decode_channels, encode_channels
from pipelines.data.manifest import DatasetError, Manifest

FOUR = ImageFormat(4, 16, (0, 4095), (0.2, 0.3, 0.4, 0.5), (0.1, 0.1, 0.2, 0.2), (4, 3, 2))

images = st.tuples(st.sampled_from([np.uint8, np.uint16]), st.integers(1, 6)).flatmap(
    lambda kind: st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
        lambda size: arrays(kind[0], (*size, kind[1]))
    )
)


@given(images)
@settings(max_examples=60, deadline=None)
def test_channels_are_stored_without_loss(values: np.ndarray) -> None:
    data = encode_channels(values)
    height, width, channels = values.shape
    read = decode_channels(data, channels)
    assert read.dtype == values.dtype
    assert np.array_equal(read, values)
    # As a program without this project reads them.
    plain = np.asarray(Image.open(io.BytesIO(data))).reshape(channels, height, width)
    assert np.array_equal(np.moveaxis(plain, 0, 2), values)


def test_other_number_of_channels_is_an_error() -> None:
    with pytest.raises(ImageError, match="is no image with 4 channels"):
        decode_channels(encode_channels(np.zeros((2, 3, 3), np.uint8)), 4)


def test_limit_of_pixels_does_not_count_the_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of the largest size that `prepare` accepts can be read with any channels."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    values = np.arange(4 * 5 * 13, dtype=np.uint16).reshape(4, 5, 13)
    assert np.array_equal(decode_channels(encode_channels(values), 13), values)


@pytest.mark.parametrize("keep", [0, 20, -30])
def test_damaged_channels_are_an_error(keep: int) -> None:
    data = encode_channels(np.arange(260, dtype=np.uint8).reshape(4, 5, 13))
    with pytest.raises(ImageError, match="damaged or truncated"):
        decode_channels(data[:keep], 13)


def test_format_is_part_of_the_fingerprint(small_streets: Path) -> None:
    manifest = open_dataset(small_streets).manifest
    assert manifest.images == RGB
    assert json.loads(manifest.to_json())["version"] == 2
    other = replace(manifest, images=FOUR)
    assert Manifest.from_json(other.to_json(), "manifest.json") == other
    assert json.loads(other.to_json())["version"] == 3
    formats = [RGB, FOUR, replace(FOUR, bits=8, scale=(0, 255)), replace(FOUR, scale=(0, 4000))]
    formats += [replace(FOUR, mean=(0.5,) * 4), replace(RGB, mean=(0.5,) * 3)]
    assert len({replace(manifest, images=each).fingerprint for each in formats}) == len(formats)
    for images in (RGB, FOUR):  # how images are drawn changes no result
        drawn = replace(images, shown=(1, 1, 2))
        assert replace(manifest, images=drawn).fingerprint == (
            replace(manifest, images=images).fingerprint
        )
    document = json.loads(other.to_json())
    document["images"]["std"] = [0.1]
    with pytest.raises(DatasetError, match=r"std is .*; it must be 4 numbers, one by channel"):
        Manifest.from_json(json.dumps(document), "manifest.json")


def test_drawings_show_the_chosen_channels() -> None:
    values = np.array([[[0, 819, 2457, 2048], [0, 1229, 1638, 4095]]], np.uint16)
    drawn = FOUR.drawn(values)
    unit = values[..., [3, 2, 1]] / 4095
    spread = ((unit - [0.5, 0.4, 0.3]) / [0.2, 0.2, 0.1] / 2 + 1) / 2
    assert np.array_equal(drawn, np.rint(spread.clip(0, 1) * 255))
    eight = values.astype(np.uint8)
    format_of_eight = replace(FOUR, bits=8, scale=(0, 255))
    assert np.array_equal(format_of_eight.drawn(eight), eight[..., [3, 2, 1]])
    gray = ImageFormat(1, 8, mean=(0.5,), std=(0.2,), shown=(1, 1, 1))
    assert np.array_equal(gray.drawn(eight[..., :1]), np.repeat(eight[..., :1], 3, axis=2))
