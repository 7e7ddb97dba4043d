"""The keys of a `folder` data set about image files: names, bit depth, bands, orientation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.data.manifest import DESCRIPTION_NAME, DatasetError
from pipelines.preparation.images.reading import (
    LARGEST_VALUE,
    ImageReading,
    is_bands,
    is_scale,
)
from pipelines.preparation.readers.pairing import Suffixes

IMAGE_KEYS = (
    *("image_suffix", "label_suffix", "scale", "bands", "bits", "rgb", "normalization", "exif"),
)


def check_image_keys(path: Path, content: Mapping[str, Any]) -> None:
    """Check the keys IMAGE_KEYS of the description in `path`. Raises DatasetError."""
    for key in ("image_suffix", "label_suffix"):
        value = content.get(key, "_mask")
        if not isinstance(value, str) or not value or {"/", "\0"} & set(value):
            raise DatasetError(
                f"{path}: {key} must be the end of a file name, such as _mask, received {value!r}"
            )
    if content.get("label_suffix", "") == content.get("image_suffix"):
        raise DatasetError(
            f"{path}: image_suffix and label_suffix are both {content['image_suffix']!r}; remove "
            "both if images and labels have equal names in two folders"
        )
    scale = content.get("scale", [0, 1])
    if not is_scale(scale):
        raise DatasetError(
            f"{path}: scale must be the stored values that become black and white, such as "
            f"[0, 4095], received {scale!r}"
        )
    bands = content.get("bands", [1, 2, 3])
    if not is_bands(bands) or len(set(bands)) < len(bands) != 3:
        raise DatasetError(
            f"{path}: bands must be the numbers, from 1, of the bands to keep, such as "
            f"[1, 2, 3, 4], received {bands!r}"
        )
    bits = content.get("bits", 8)
    if bits not in (8, 16):
        raise DatasetError(f"{path}: bits must be 8 or 16, received {bits!r}")
    whole = all(type(value) is int and 0 <= value <= LARGEST_VALUE for value in scale)
    if bits == 16 and not whole:
        raise DatasetError(
            f"{path}: with bits: 16, scale must be two whole numbers from 0 to {LARGEST_VALUE}, "
            f"received {scale!r}"
        )
    rgb = content.get("rgb", bands[:1] * 3)
    if not is_bands(rgb) or len(rgb) != 3 or not set(rgb) <= set(bands):
        raise DatasetError(
            f"{path}: rgb must be three of the numbers in bands ({bands}), which are drawn in red, "
            f"green and blue, received {rgb!r}"
        )
    _check_normalization(path, content.get("normalization", "dataset"), len(bands))
    if content.get("exif", "apply") not in ("apply", "ignore"):
        raise DatasetError(f"{path}: exif must be apply or ignore, received {content['exif']!r}")


def _check_normalization(path: Path, value: object, channels: int) -> None:
    """Check how the input of a network is normalized. Raises DatasetError."""
    if value == "dataset" or (value == "imagenet" and channels == 3):
        return
    if isinstance(value, dict) and set(value) == {"mean", "std"}:
        mean, std = value["mean"], value["std"]
        are_numbers = _are_numbers(mean, channels) and _are_numbers(std, channels)
        # Values from 0 to 255 would make every image black.
        if are_numbers and min(mean) >= 0 and max(mean) <= 1 and min(std) > 0 and max(std) <= 1:
            return
    choices = "`imagenet`, `dataset` or" if channels == 3 else "`dataset` or"
    raise DatasetError(
        f"{path}: normalization must be {choices} `{{mean: [...], std: [...]}}` with {channels} "
        f"numbers each, for values from 0 to 1, received {value!r}"
    )


def _are_numbers(value: object, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(type(each) in (int, float) and math.isfinite(each) for each in value)
    )


def described_suffixes(description: Mapping[str, Any]) -> Suffixes:
    """Return the suffixes of a checked description."""
    return Suffixes(description.get("image_suffix", ""), description.get("label_suffix", ""))


def described_reading(description: Mapping[str, Any]) -> ImageReading:
    """Return how a checked description says that images become pixels."""
    scale, bands, rgb = (description.get(key) for key in ("scale", "bands", "rgb"))
    normalization = description.get("normalization")
    if isinstance(normalization, dict):
        mean, std = (map(float, normalization[key]) for key in ("mean", "std"))
        normalization = tuple(mean), tuple(std)
    return ImageReading(
        scale=None if scale is None else (scale[0], scale[1]),
        bands=None if bands is None else tuple(bands),
        exif=description.get("exif"),
        file=DESCRIPTION_NAME,
        bits=description.get("bits", 8),
        rgb=None if rgb is None else tuple(rgb),
        normalization=normalization,
    )
