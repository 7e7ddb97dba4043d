"""Augments source windows to a training batch on the device, as in the paper.

Resize, crop, padding, flips and rotation are one resampling of the source window (see `geometry`).
Color jitter and Gaussian blur follow, with parameters from each sample's random numbers, then the
transforms that the configuration names (see `transforms`), and CutMix or ClassMix. Saturation and
hue change only images of three channels, which are taken as red, green and blue. The result of a
sample does not depend on the other samples of its batch (on the CPU, bit for bit).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

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
from pipelines.data.config import AugmentationConfig
from pipelines.data.dataset import IGNORE_INDEX
from pipelines.data.geometry import AxisSampling, sample_axis
from pipelines.data.image_format import RGB, ImageFormat
from pipelines.data.normalization import normalize, per_channel, to_unit
from pipelines.data.randomness import Stream
from pipelines.data.transforms import Transforms


class Augmentation:
    """Converts a `SourceBatch` to normalized images and labels on the batch's device.

    Args:
        config: strength of each augmentation.
        crop: height and width of the result in pixels.
        image_format: of the source images; padding has the mean color.
        compile: fuse all operations with `torch.compile`, for a GPU. The first batch then takes
            half a minute, and results differ in the last bits.

    Raises:
        TransformError: a transform cannot be imported or built.
        ValueError: `compile` is set although there are transforms.
    """

    def __init__(
        self,
        config: AugmentationConfig,
        crop: tuple[int, int],
        image_format: ImageFormat = RGB,
        compile: bool = False,
    ) -> None:
        self.config = config
        self.crop = crop
        self.image_format = image_format
        self.transforms = Transforms(config.transform_configs, image_format.mean)
        if compile and config.transforms:
            raise ValueError(
                "compile is set, but transforms cannot be compiled; remove one of both"
            )
        augment: Callable[[SourceBatch], tuple[Tensor, Tensor]] = self._augment
        self._compiled = torch.compile(augment, dynamic=False) if compile else None

    def __call__(self, batch: SourceBatch) -> tuple[Tensor, Tensor]:
        """Return normalized images, float32 (batch, channels, *crop), and labels, int64 (batch,
        *crop)."""
        if self._compiled is not None:
            return self._compiled(batch)
        return self._augment_each(batch) if batch.windows.is_cpu else self._augment(batch)

    def _augment_each(self, batch: SourceBatch) -> tuple[Tensor, Tensor]:
        """Augment one sample at a time, which is faster on a CPU: the intermediate values of a
        whole batch exceed its caches, and new memory must be cleared by the kernel."""
        images = torch.empty(len(batch), self.image_format.channels, *self.crop)
        labels = torch.empty(len(batch), *self.crop, dtype=torch.int64)
        for row in range(len(batch)):
            images[row : row + 1], labels[row : row + 1] = self._augment(batch[row : row + 1])
        return images, labels

    def _augment(self, batch: SourceBatch) -> tuple[Tensor, Tensor]:
        images, labels = self._before_mixing(batch)
        if batch.partners is not None:
            others, other_labels = self._before_mixing(batch.partners)
            pasted = self._cut(batch.draws)
            if batch.class_draws is not None:
                pasted |= self._half_of_classes(batch.draws, batch.class_draws, other_labels)
            images = torch.where(pasted[:, None], others, images)
            labels = torch.where(pasted, other_labels, labels)
        return normalize(images, self.image_format), labels

    def _before_mixing(self, batch: SourceBatch) -> tuple[Tensor, Tensor]:
        images, labels = self.crops(batch)
        images = self.jitter(images, batch.draws)
        images = self.blur(images, batch.draws)
        if self.config.transforms:
            images, labels = self.transforms(images, labels, batch.host_keys)
        return images, labels

    def _cut(self, draws: Tensor) -> Tensor:
        """Draw the pixels that come from the partner, bool (batch, *crop).

        A rectangle of the crop's shape with an area fraction uniform in [0, 1] and a uniform
        center, clipped to the crop. Source: Yun et al., "CutMix", ICCV 2019, with α = 1.
        """
        is_mixed = draws[:, Stream.CUTMIX - 1] < self.config.cutmix
        half = draws[:, Stream.CUT_AREA - 1].sqrt() / 2
        inside = []
        for length, stream in zip(self.crop, (Stream.CUT_ROW, Stream.CUT_COLUMN), strict=True):
            position = (torch.arange(length, device=draws.device) + 0.5) / length
            distance = (position - draws[:, stream - 1, None]).abs()
            inside.append(distance < half[:, None])
        rows, columns = inside
        return is_mixed[:, None, None] & rows[:, :, None] & columns[:, None, :]

    def _half_of_classes(self, draws: Tensor, class_draws: Tensor, others: Tensor) -> Tensor:
        """Draw the pixels that come from the partner, bool (batch, *crop): those of half of its
        classes, rounded down, but no ignored ones.

        Source: Olsson et al., "ClassMix", WACV 2021.

        draws, class_draws: of `SourceBatch`. others: labels of the partners, int64 (batch, *crop).
        """
        draw = draws[:, Stream.CUTMIX - 1, None]
        is_mixed = (draw >= self.config.cutmix) & (draw < self.config.cutmix + self.config.classmix)
        flat = others.flatten(1)
        present = torch.zeros(len(others), IGNORE_INDEX + 1, dtype=torch.bool, device=draws.device)
        present = present.scatter(1, flat, True)[:, :IGNORE_INDEX]
        # Positions in a random order of the classes that are present.
        position = class_draws.where(present, torch.inf).argsort(dim=1, stable=True).argsort(dim=1)
        chosen = is_mixed & present & (position < present.sum(dim=1, keepdim=True) // 2)
        return F.pad(chosen, (0, 1)).gather(1, flat).view_as(others)

    def crops(self, batch: SourceBatch) -> tuple[Tensor, Tensor]:
        """Resize, crop, pad, flip and rotate; returns images in [0, 1] (bilinear) and labels
        (nearest)."""
        orientation = self._orientation(batch)
        rows = sample_axis(batch.geometry[:, 0], self.crop[0], orientation.flip_rows)
        columns = sample_axis(batch.geometry[:, 1], self.crop[1], orientation.flip_columns)
        inside = rows.inside[:, :, None] & columns.inside[:, None, :]
        windows = batch.windows
        if self.image_format.bits > 8:
            # Clipped to the scale before values are interpolated.
            windows = to_unit(windows, self.image_format)
        if self.config.scale == (1, 1):  # every position is a pixel, so copying is exact
            images = _read_nearest(windows, rows, columns).to(torch.float32)
        else:
            images = _read_bilinear(windows, rows, columns)
        if self.image_format.bits == 8:
            images = images / 255
        images = torch.where(inside[:, None], images, per_channel(images, self.image_format.mean))
        labels = _read_nearest(batch.labels[:, None], rows, columns)[:, 0].long()
        labels = torch.where(inside, labels, IGNORE_INDEX)
        transpose = orientation.transpose
        if transpose is not None:
            images = torch.where(transpose[:, None, None, None], images.mT, images)
            labels = torch.where(transpose[:, None, None], labels.mT, labels)
        return images, labels

    def _orientation(self, batch: SourceBatch) -> _Orientation:
        """Draw the flips and the rotation of each sample."""
        config, draws = self.config, batch.draws
        rows, columns, transpose = None, batch.flips, None
        if config.vertical_flip:
            rows = draws[:, Stream.VERTICAL_FLIP - 1] < config.vertical_flip
        if config.rotate90:
            draw = draws[:, Stream.ROTATE90 - 1]
            # Counterclockwise, in units of 90 degrees.
            turns = 1 + (draw * (3 / config.rotate90)).long().clamp(max=2)
            if self.crop[0] != self.crop[1]:
                turns = torch.full_like(turns, 2)
            turns = torch.where(draw < config.rotate90, turns, 0)
            if rows is None:
                rows = torch.zeros_like(columns)
            # A rotation is a flip of the rows, the columns or both, and then a transposition.
            rows, columns = rows ^ (turns >= 2), columns ^ ((turns == 1) | (turns == 2))
            transpose = turns % 2 == 1 if self.crop[0] == self.crop[1] else None
        return _Orientation(rows, columns, transpose)

    def jitter(self, images: Tensor, draws: Tensor) -> Tensor:
        """Change brightness, contrast, saturation and hue, in this order, clamped to [0, 1].

        Saturation and hue are changed only if there are three channels.

        draws: `SourceBatch.draws`.
        """

        def factors(strength: float, stream: Stream) -> Tensor:
            return 1 + strength * (2 * draws[:, stream - 1] - 1)

        config = self.config
        has_colors = images.shape[1] == RGB.channels
        if config.brightness:
            factor = factors(config.brightness, Stream.BRIGHTNESS)
            images = adjust_brightness_accumulative(images, factor)
        if config.contrast:
            images = _adjust_contrast(images, factors(config.contrast, Stream.CONTRAST))
        if config.saturation and has_colors:
            factor = factors(config.saturation, Stream.SATURATION)
            images = adjust_saturation_with_gray_subtraction(images, factor)
        if config.hue and has_colors:
            shift = factors(config.hue, Stream.HUE) - 1
            images = _shift_hue(images, shift)
        return images

    def blur(self, images: Tensor, draws: Tensor) -> Tensor:
        """Apply a Gaussian blur with one sigma per sample; images are reflected at their edges.

        draws: `SourceBatch.draws`.
        """
        low, high = self.config.blur
        if high == 0:
            return images
        sigma = low + (high - low) * draws[:, Stream.BLUR - 1]
        # Three standard deviations hold 99.7 % of the kernel; reflection limits the radius.
        radius = min(math.ceil(3 * high), min(self.crop) - 1)
        kernel = get_gaussian_kernel1d(2 * radius + 1, sigma[:, None])
        if images.is_cpu:
            return _blur_on_cpu(images, kernel)
        return filter2d_separable(images, kernel, kernel, "reflect")


class _Orientation(NamedTuple):
    """The flips of each crop and its transposition after them, bool (batch,); None for no crop."""

    flip_rows: Tensor | None
    flip_columns: Tensor
    transpose: Tensor | None


def _read_bilinear(windows: Tensor, rows: AxisSampling, columns: AxisSampling) -> Tensor:
    """Sample (batch, channels, height, width) to float32 (batch, channels, *crop)."""
    return F.grid_sample(
        windows.to(torch.float32),
        _grid(windows, rows.position, columns.position),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )


def _read_nearest(pixels: Tensor, rows: AxisSampling, columns: AxisSampling) -> Tensor:
    """Copy the nearest pixels of (batch, channels, height, width) to (..., *crop)."""
    batch, channels, height, width = pixels.shape
    indices = rows.nearest[:, :, None] * width + columns.nearest[:, None, :]
    channels_last = pixels.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
    values = channels_last.gather(1, indices.reshape(batch, -1, 1).expand(-1, -1, channels))
    return values.view(*indices.shape, channels).permute(0, 3, 1, 2)


def _grid(windows: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Convert pixel positions to `grid_sample`'s coordinates: (batch, *crop, 2), x first."""
    height, width = windows.shape[-2:]
    y = (2 * rows + 1) / height - 1
    x = (2 * columns + 1) / width - 1
    return torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)


def _adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend each image with its mean gray value, as Pillow and torchvision do.

    Of other images than those with three channels, the gray value is the mean of the channels.
    kornia's version sums floating-point values in an order that depends on the batch; sums of
    integers do not depend on the order.
    """
    has_colors = images.shape[1] == RGB.channels
    gray = rgb_to_grayscale(images) if has_colors else images.mean(dim=1, keepdim=True)
    levels = (gray * 65535).round().long()
    mean = (levels.sum(dim=(1, 2, 3)).double() / (65535 * levels[0].numel())).to(images.dtype)
    blended = torch.lerp(mean[:, None, None, None], images, factor[:, None, None, None])
    return blended.clamp(0, 1)


def _shift_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Shift each image's hue by a fraction of the color circle, as kornia's `adjust_hue` does.

    kornia converts to HSV and back, which takes four times as long. The lowest channel value and
    the chroma do not change. For hue h, in sixths of the circle, the channels are
    lowest + chroma * clamp(w, 0, 1) with w = |h - 3| - 1 for red, 2 - |h - 2| for green and
    2 - |h - 4| for blue.
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
    hue = (hue + 6 * shift[:, None, None]).remainder(6)
    weights = ((hue - 3).abs() - 1, 2 - (hue - 2).abs(), 2 - (hue - 4).abs())
    return torch.stack([lowest + chroma * weight.clamp(0, 1) for weight in weights], dim=1)


def _blur_on_cpu(images: Tensor, kernel: Tensor) -> Tensor:
    """Compute kornia's `filter2d_separable` for symmetric kernels, (batch, taps), on a CPU.

    Its depthwise convolution is several times slower on a CPU than adding shifted images.
    """
    radius = kernel.shape[1] // 2
    taps = kernel[:, :, None, None, None].unbind(1)
    filtered = F.pad(images, (radius,) * 4, "reflect")
    for axis in (3, 2):
        length = filtered.shape[axis] - 2 * radius
        total = filtered.narrow(axis, radius, length) * taps[radius]
        for tap in range(radius):
            before = filtered.narrow(axis, tap, length)
            after = filtered.narrow(axis, 2 * radius - tap, length)
            total = torch.addcmul(total, before + after, taps[tap])
        filtered = total
    return filtered
