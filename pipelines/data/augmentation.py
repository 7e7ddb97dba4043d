"""From source windows to a training batch, on the device: the paper's recipe.

Resize, crop, padding and flip are one reading of the source window (see `geometry`); colour jitter
and Gaussian blur follow on the batch, with parameters drawn per sample from its key. A sample's
result does not depend on which others share its batch; on the CPU not in a single bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from kornia.color import rgb_to_grayscale
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_saturation_with_gray_subtraction,
)
from kornia.filters import filter2d_separable, get_gaussian_kernel1d
from torch import Tensor

from pipelines.data.batches import SourceBatch
from pipelines.data.geometry import AxisSampling, sample_axis
from pipelines.data.normalization import IMAGENET_MEAN, IMAGENET_STD, channels, normalize
from pipelines.data.randomness import Stream, uniform_tensor

IGNORE_INDEX = 255


@dataclass(frozen=True)
class AugmentationConfig:
    """Strength of each augmentation; what is off leaves every bit as it was.

    scale: smallest and largest factor of the random resize; (1, 1) is off.
    flip: probability of a horizontal flip.
    brightness, contrast, saturation: factor drawn from [1 - x, 1 + x]; at most 1.
    hue: turn of the colour circle drawn from [-x, x], as a fraction of a full turn; at most 0.5.
    blur: smallest and largest standard deviation of the Gaussian blur in pixels; (0, 0) is off.
    """

    __pydantic_config__ = {"extra": "forbid"}

    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    brightness: float = 0.25
    contrast: float = 0.25
    saturation: float = 0.25
    hue: float = 0.25
    blur: tuple[float, float] = (0.15, 1.30)

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(
                f"scale must be a smallest and a largest factor above 0, such as (0.5, 2.0); "
                f"received {self.scale}"
            )
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip must be a probability from 0 to 1, received {self.flip}")
        for name, most in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0.5)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be from 0 to {most}, received {getattr(self, name)}")
        if not (self.blur == (0, 0) or 0 < self.blur[0] <= self.blur[1]):
            raise ValueError(
                f"blur must be a smallest and a largest sigma above 0, such as (0.15, 1.3), "
                f"or (0, 0) for none; received {self.blur}"
            )


class Augmentation:
    """Turns a `SourceBatch` into normalised images and labels, on the batch's device.

    Args:
        config: strength of each augmentation.
        crop: height and width of the result in pixels.
        mean, std: per channel, of images in [0, 1]; padding has the mean as its colour.
        compile: fuse everything with `torch.compile`, which takes half a minute on the first batch;
            for a GPU. Results then differ in the last bits.
    """

    def __init__(
        self,
        config: AugmentationConfig,
        crop: tuple[int, int],
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        compile: bool = False,
    ) -> None:
        self.config = config
        self.crop = crop
        self.mean = tuple(mean)
        self.std = tuple(std)
        whole: Callable[[SourceBatch], tuple[Tensor, Tensor]] = self._whole
        self._compiled = torch.compile(whole, dynamic=False) if compile else None

    def __call__(self, batch: SourceBatch) -> tuple[Tensor, Tensor]:
        """Normalised images, float32 (batch, 3, *crop), and labels, int64 (batch, *crop)."""
        if self._compiled is not None:
            return self._compiled(batch)
        return self._by_sample(batch) if batch.windows.is_cpu else self._whole(batch)

    def _by_sample(self, batch: SourceBatch) -> tuple[Tensor, Tensor]:
        """One sample after the other, for a processor: the intermediate values of a whole batch are
        too large for its caches, and each is fresh memory that the kernel has to clear."""
        images = torch.empty(len(batch), 3, *self.crop)
        labels = torch.empty(len(batch), *self.crop, dtype=torch.int64)
        for row in range(len(batch)):
            images[row : row + 1], labels[row : row + 1] = self._whole(batch[row : row + 1])
        return images, labels

    def _whole(self, batch: SourceBatch) -> tuple[Tensor, Tensor]:
        images, labels = self.crops(batch)
        images = self.jitter(images, batch.sample_keys)
        images = self.blur(images, batch.sample_keys)
        return normalize(images, self.mean, self.std), labels

    def crops(self, batch: SourceBatch) -> tuple[Tensor, Tensor]:
        """Resized, cropped, padded, flipped: images in [0, 1], bilinear; labels, nearest."""
        rows = sample_axis(batch.geometry[:, 0], self.crop[0], None)
        columns = sample_axis(batch.geometry[:, 1], self.crop[1], batch.flips)
        inside = rows.inside[:, :, None] & columns.inside[:, None, :]
        if self.config.scale == (1, 1):  # every position is a pixel: copied, so exact
            images = _read_nearest(batch.windows, rows, columns).to(torch.float32) / 255
        else:
            images = _read_bilinear(batch.windows, rows, columns)
        images = torch.where(inside[:, None], images, channels(images, self.mean))
        labels = _read_nearest(batch.labels[:, None], rows, columns)[:, 0].long()
        return images, torch.where(inside, labels, IGNORE_INDEX)

    def jitter(self, images: Tensor, keys: Tensor) -> Tensor:
        """Brightness, contrast, saturation, hue, in this order, each clamped to [0, 1]."""

        def factors(strength: float, stream: Stream) -> Tensor:
            return 1 + strength * (2 * uniform_tensor(keys, stream) - 1)

        config = self.config
        if config.brightness:
            factor = factors(config.brightness, Stream.BRIGHTNESS)
            images = adjust_brightness_accumulative(images, factor)
        if config.contrast:
            images = _adjust_contrast(images, factors(config.contrast, Stream.CONTRAST))
        if config.saturation:
            factor = factors(config.saturation, Stream.SATURATION)
            images = adjust_saturation_with_gray_subtraction(images, factor)
        if config.hue:
            turn = factors(config.hue, Stream.HUE) - 1
            images = _turn_hue(images, turn)
        return images

    def blur(self, images: Tensor, keys: Tensor) -> Tensor:
        """Gaussian blur with a sigma per sample; the picture is reflected at its edges."""
        low, high = self.config.blur
        if high == 0:
            return images
        sigma = low + (high - low) * uniform_tensor(keys, Stream.BLUR)
        # Three standard deviations hold 99.7 % of the kernel; reflection needs a larger picture.
        radius = min(math.ceil(3 * high), min(self.crop) - 1)
        kernel = get_gaussian_kernel1d(2 * radius + 1, sigma[:, None])
        if images.is_cpu:
            return _filter(images, kernel)
        return filter2d_separable(images, kernel, kernel, "reflect")


def _read_bilinear(windows: Tensor, rows: AxisSampling, columns: AxisSampling) -> Tensor:
    """float32 (batch, 3, *crop) in [0, 1] of uint8 (batch, 3, height, width)."""
    images = F.grid_sample(
        windows.to(torch.float32),
        _grid(windows, rows.position, columns.position),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return images / 255


def _read_nearest(pixels: Tensor, rows: AxisSampling, columns: AxisSampling) -> Tensor:
    """uint8 (batch, channels, *crop) of (batch, channels, height, width): copied, never blended."""
    batch, channels, height, width = pixels.shape
    places = rows.nearest[:, :, None] * width + columns.nearest[:, None, :]
    last = pixels.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
    read = last.gather(1, places.reshape(batch, -1, 1).expand(-1, -1, channels))
    return read.view(*places.shape, channels).permute(0, 3, 1, 2)


def _grid(windows: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixel positions in `grid_sample`'s normalised coordinates: (batch, *crop, 2), x first."""
    height, width = windows.shape[-2:]
    y = (2 * rows + 1) / height - 1
    x = (2 * columns + 1) / width - 1
    return torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)


def _adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean grey of each picture, as Pillow and torchvision do.

    kornia's own version sums in an order that depends on the batch; integers add up to the same in
    any order.
    """
    levels = (rgb_to_grayscale(images) * 65535).round().long()
    mean = (levels.sum(dim=(1, 2, 3)).double() / (65535 * levels[0].numel())).to(images.dtype)
    blended = torch.lerp(mean[:, None, None, None], images, factor[:, None, None, None])
    return blended.clamp(0, 1)


def _turn_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turn each picture's hue by a fraction of the colour circle, as kornia's `adjust_hue` does.

    kornia goes to HSV and back, at four times the work. Lowest value and chroma stay as they are;
    of hue h, in sixths of the circle, the channels are lowest + chroma * clamp(w, 0, 1) with
    w = |h - 3| - 1 for red, 2 - |h - 2| for green and 2 - |h - 4| for blue.
    """
    red, green, blue = images.unbind(1)
    highest = torch.maximum(torch.maximum(red, green), blue)
    lowest = torch.minimum(torch.minimum(red, green), blue)
    chroma = highest - lowest
    divisor = torch.where(chroma == 0, 1, chroma)
    hue = torch.where(
        highest == red,
        (green - blue) / divisor,
        torch.where(highest == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    hue = (hue + 6 * turn[:, None, None]).remainder(6)
    weights = ((hue - 3).abs() - 1, 2 - (hue - 2).abs(), 2 - (hue - 4).abs())
    return torch.stack([lowest + chroma * weight.clamp(0, 1) for weight in weights], dim=1)


def _filter(images: Tensor, kernel: Tensor) -> Tensor:
    """What kornia's `filter2d_separable` makes of symmetric kernels, (batch, taps), on a CPU.

    Its convolution with one channel a group is several times slower there than adding shifted
    pictures.
    """
    radius = kernel.shape[1] // 2
    taps = kernel[:, :, None, None, None].unbind(1)
    filtered = F.pad(images, (radius,) * 4, "reflect")
    for axis in (3, 2):
        length = filtered.shape[axis] - 2 * radius
        total = filtered.narrow(axis, radius, length) * taps[radius]
        for place in range(radius):
            before = filtered.narrow(axis, place, length)
            after = filtered.narrow(axis, 2 * radius - place, length)
            total = torch.addcmul(total, before + after, taps[place])
        filtered = total
    return filtered
