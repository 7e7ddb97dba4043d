"""The keys of a `folder` data set about image files: names, bit depth, bands, orientation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.data.manifest import DatasetError
from pipelines.preparation.image_reading import ImageReading, is_bands, is_scale
from pipelines.preparation.readers.pairing import Suffixes

IMAGE_KEYS = ("image_suffix", "label_suffix", "scale", "bands", "exif")


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
    if not is_bands(bands):
        raise DatasetError(
            f"{path}: bands must be the numbers, from 1, of the bands that become red, green and "
            f"blue, such as [1, 2, 3], received {bands!r}"
        )
    if content.get("exif", "apply") not in ("apply", "ignore"):
        raise DatasetError(f"{path}: exif must be apply or ignore, received {content['exif']!r}")


def described_suffixes(description: Mapping[str, Any]) -> Suffixes:
    """Return the suffixes of a checked description."""
    return Suffixes(description.get("image_suffix", ""), description.get("label_suffix", ""))


def described_reading(description: Mapping[str, Any]) -> ImageReading:
    """Return how a checked description says that images become pixels."""
    scale, bands = description.get("scale"), description.get("bands")
    return ImageReading(
        scale=None if scale is None else (scale[0], scale[1]),
        bands=None if bands is None else (bands[0], bands[1], bands[2]),
        exif=description.get("exif"),
    )
