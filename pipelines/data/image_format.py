"""The format of a data set's images: channels, bit depth, and how networks receive them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.imagenet import IMAGENET_MEAN, IMAGENET_STD

#: Stored values: uint8 or uint16.
Pixels = NDArray[np.unsignedinteger[Any]]

# Drawings of other images than 8-bit ones show values this far from the mean, in standard
# deviations.
_CONTRAST = 2.0


@dataclass(frozen=True)
class ImageFormat:
    """The images of a prepared data set.

    channels: number of channels.
    bits: of each value, 8 or 16.
    scale: the values that become 0 and 1 before augmentation; other values are clipped to them.
    mean, std: per channel, of images in [0, 1]; networks receive `(image - mean) / std`.
    shown: numbers, from 1, of the channels that are drawn in red, green and blue.

    Raises:
        ValueError: a value is not valid.
    """

    __pydantic_config__ = {"extra": "forbid"}

    channels: int = 3
    bits: int = 8
    scale: tuple[int, int] = (0, 255)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    shown: tuple[int, int, int] = (1, 2, 3)

    def __post_init__(self) -> None:
        if self.channels < 1 or self.bits not in (8, 16):
            raise ValueError(
                f"images have {self.channels} channels of {self.bits} bits; at least 1 channel of "
                "8 or 16 bits is supported"
            )
        if not 0 <= self.scale[0] < self.scale[1] < 2**self.bits:
            raise ValueError(
                f"scale is {list(self.scale)}; it must be two values of {self.bits} bits in "
                "ascending order"
            )
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != self.channels or not all(map(math.isfinite, values)):
                raise ValueError(
                    f"{name} is {list(values)}; it must be {self.channels} numbers, one by channel"
                )
        if min(self.std) <= 0:
            raise ValueError(f"std is {list(self.std)}; its values must be above 0")
        if not set(self.shown) <= set(range(1, self.channels + 1)):
            raise ValueError(
                f"shown is {list(self.shown)}; it must name channels from 1 to {self.channels}"
            )

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the values."""
        return np.dtype(np.uint8 if self.bits == 8 else np.uint16)

    @property
    def is_stored_as_rgb(self) -> bool:
        """Whether an image is stored as an ordinary file of 8-bit red, green and blue."""
        return (self.channels, self.bits) == (3, 8)

    def computing(self) -> dict[str, Any]:
        """Return what decides the input of a network; empty for 8-bit RGB images in ImageNet's
        normalization, so that their data sets keep the fingerprint they had before other formats
        were supported."""
        own, rgb = asdict(self), asdict(RGB)
        for values in (own, rgb):
            del values["shown"]
        return {} if own == rgb else own

    def drawn(self, pixels: Pixels) -> NDArray[np.uint8]:
        """Return an image (height, width, channels) as 8-bit RGB for drawings.

        8-bit values are kept. Of 16-bit values, those up to two standard deviations from the mean
        are spread over the range of 8 bits.
        """
        shown = [number - 1 for number in self.shown]
        if self.is_stored_as_rgb and shown == [0, 1, 2]:
            return pixels.astype(np.uint8, copy=False)
        chosen = pixels[..., shown]
        if self.bits == 8:
            return np.ascontiguousarray(chosen, dtype=np.uint8)
        low, high = self.scale
        mean, std = (np.array(values)[shown] for values in (self.mean, self.std))
        standardized = ((chosen.astype(np.float32) - low) / (high - low) - mean) / std
        unit = (standardized / _CONTRAST + 1) / 2
        return np.rint(unit.clip(0, 1) * 255).astype(np.uint8)

    def __str__(self) -> str:
        channels = "1 channel" if self.channels == 1 else f"{self.channels} channels"
        return f"{channels} of {self.bits} bits"


#: 8-bit red, green and blue, in ImageNet's normalization.
RGB = ImageFormat()
