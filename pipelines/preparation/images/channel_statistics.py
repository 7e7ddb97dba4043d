"""Mean and standard deviation of each channel, and the format of the images that follows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipelines.data.image_format import RGB, ImageFormat
from pipelines.data.manifest import DatasetError, Shard
from pipelines.preparation.images.reading import ImageReading, used_scale
from pipelines.preparation.images.value_range import ValueRange

# The split that the statistics are of, if there is one of this name.
_TRAIN = "train"


class Part(Protocol):
    """The sums of the values of one shard's images, and of their squares, by channel."""

    @property
    def shard(self) -> Shard | None: ...
    @property
    def pixels(self) -> int: ...
    @property
    def channel_sums(self) -> list[int]: ...
    @property
    def channel_squares(self) -> list[int]: ...


@dataclass(frozen=True)
class ChannelStatistics:
    """Mean and standard deviation of the stored values, by channel."""

    means: tuple[float, ...]
    deviations: tuple[float, ...]


def channel_statistics(parts: Iterable[Part]) -> ChannelStatistics:
    """Return the statistics of the images of all parts together.

    Sums of integers and one division each: the result does not depend on the order of the images.
    """
    used = [part for part in parts if part.channel_sums]
    pixels = max(1, sum(part.pixels for part in used))
    sums = [sum(each) for each in zip(*(part.channel_sums for part in used), strict=True)]
    squares = [sum(each) for each in zip(*(part.channel_squares for part in used), strict=True)]
    return ChannelStatistics(
        tuple(total / pixels for total in sums),
        tuple(
            math.sqrt((pixels * square - total**2) / pixels**2)
            for total, square in zip(sums, squares, strict=True)
        ),
    )


def image_format(
    reading: ImageReading, stored: ValueRange | None, parts: Sequence[Part]
) -> ImageFormat:
    """Return the format of the images that `reading` gives.

    stored: range of the values of images of more than 8 bits. parts: all images.

    Raises:
        DatasetError: the statistics are used, and a channel is constant.
    """
    scale = RGB.scale
    if reading.bits == 16:
        assert stored is not None, "8-bit images are refused with bits: 16"
        low, high = used_scale(reading, stored)
        scale = int(low), int(high)
    channels, bands = reading.channels, reading.chosen_bands
    shown = tuple(min(number, channels) for number in RGB.shown)
    if reading.rgb is not None:
        numbers = bands or RGB.shown
        shown = tuple(numbers.index(number) + 1 for number in reading.rgb)
    normalization = reading.normalization
    if normalization is None:
        is_rgb = (channels, reading.bits) == (RGB.channels, RGB.bits)
        normalization = "imagenet" if is_rgb else "dataset"
    if normalization == "imagenet":
        mean, std = RGB.mean, RGB.std
    elif normalization == "dataset":
        mean, std = _measured(parts, scale, bands)
    else:
        mean, std = normalization
    return ImageFormat(channels, reading.bits, scale, mean, std, (shown[0], shown[1], shown[2]))


def _measured(
    parts: Sequence[Part], scale: tuple[int, int], bands: tuple[int, ...] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of the training images, or of all, in [0, 1]."""
    train = [part for part in parts if part.shard is not None and part.shard.split == _TRAIN]
    statistics = channel_statistics(train or parts)
    low, high = scale
    for number, deviation in zip(bands or RGB.shown, statistics.deviations, strict=True):
        if deviation == 0:
            raise DatasetError(
                f"band {number} has the same value in every pixel, so that images cannot be "
                "normalized; leave it out of `bands`, or set `normalization` to a mean and a "
                "standard deviation"
            )
    return (
        tuple(_rounded((mean - low) / (high - low)) for mean in statistics.means),
        tuple(_rounded(deviation / (high - low)) for deviation in statistics.deviations),
    )


def _rounded(value: float) -> float:
    """Return six digits, which are enough and can be read."""
    return float(f"{value:.6g}")
