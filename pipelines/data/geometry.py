"""Random resize, crop and flip in integer arithmetic: planned on the host, exact on every device.

If an axis of S pixels is resized to R pixels, resized pixel u is centered at source coordinate
((2u + 1) S - R) / 2R, with pixel centers at integers. A crop is described by integers, so floor,
fraction and nearest neighbor are computed without rounding and agree between machines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.data.randomness import Stream, uniform


@dataclass(frozen=True)
class Axis:
    """One axis of a crop, in pixels.

    source, resized: size of the source and of the resized image. offset: start of the crop in the
    resized image; negative if it starts with padding. start, stop: the source pixels [start, stop)
    that the crop needs.
    """

    source: int
    resized: int
    offset: int
    start: int
    stop: int

    @property
    def numbers(self) -> tuple[int, int, int, int]:
        """The values that `sample_axis` needs on the device."""
        return self.source, self.resized, self.offset, self.start


@dataclass(frozen=True)
class CropPlan:
    """The resize, crop and flip of one training sample."""

    rows: Axis
    columns: Axis
    flip: bool


def plan_crop(
    size: tuple[int, int],
    crop: tuple[int, int],
    scale: tuple[float, float],
    flip: float,
    key: int,
    contain: tuple[int, int] | None = None,
) -> CropPlan:
    """Draw the crop of an image of `size` (height, width) from the random numbers of `key`.

    The image is resized by a factor uniform in `scale`. The position of the crop in the image is
    uniform; along an axis where the crop is larger, the position of the image in the crop is.
    `contain` is a source pixel (row, column) that the crop must contain. `flip` is a probability.
    """
    keys = np.array([key], dtype=np.int64)

    def draw(stream: Stream) -> float:
        return float(uniform(keys, stream)[0])

    factor = scale[0] + (scale[1] - scale[0]) * draw(Stream.SCALE)
    rows, columns = (
        _plan_axis(size[i], crop[i], factor, draw(stream), None if contain is None else contain[i])
        for i, stream in enumerate((Stream.ROW, Stream.COLUMN))
    )
    return CropPlan(rows, columns, flip=draw(Stream.FLIP) < flip)


def canvas_size(sizes: NDArray[np.int64], crop: int, smallest_scale: float) -> int:
    """Return the largest window, in source pixels along an axis, of any crop of such images."""
    largest = 1
    for size in np.unique(sizes).tolist():
        resized = _resized(size, smallest_scale)
        largest = max(largest, min(size, (crop - 1) * size // resized + 3))
    return largest


def _resized(source: int, factor: float) -> int:
    return max(1, round(source * factor))


def _plan_axis(source: int, crop: int, factor: float, draw: float, contain: int | None) -> Axis:
    resized = _resized(source, factor)
    slack = resized - crop
    low, high = min(0, slack), max(0, slack)
    if contain is not None and slack > 0:
        contained = (2 * contain + 1) * resized // (2 * source)
        low, high = max(low, contained - crop + 1), min(high, contained)
    offset = low + int(draw * (high - low + 1))
    first, last = max(0, offset), min(resized, offset + crop) - 1
    start, _ = _neighbors(source, resized, first)
    _, stop = _neighbors(source, resized, last)
    return Axis(source, resized, offset, start, stop + 1)


def _neighbors(source: int, resized: int, pixel: int) -> tuple[int, int]:
    """Return the two source pixels on either side of a resized pixel's center, within the image."""
    below = ((2 * pixel + 1) * source - resized) // (2 * resized)
    return min(max(below, 0), source - 1), min(max(below + 1, 0), source - 1)


@dataclass(frozen=True)
class AxisSampling:
    """Positions in the window of each crop's pixels along one axis; all tensors are (batch, crop).

    `position`: float32, for bilinear sampling of images. `nearest`: int64, for labels. `inside`:
    bool, False in the padding, where the other two hold an arbitrary valid position.
    """

    position: Tensor
    nearest: Tensor
    inside: Tensor


def sample_axis(numbers: Tensor, crop: int, flips: Tensor | None) -> AxisSampling:
    """Expand `Axis.numbers`, int64 (batch, 4), on their device; `flips` is bool (batch,)."""
    source, resized, offset, start = numbers[:, :, None].unbind(1)
    pixel = torch.arange(crop, device=numbers.device)[None]
    if flips is not None:
        pixel = torch.where(flips[:, None], crop - 1 - pixel, pixel)
    target = pixel + offset
    inside = (target >= 0) & (target < resized)
    target = torch.minimum(target.clamp(min=0), resized - 1)
    doubled = (2 * target + 1) * source
    # In units of 1 / 2R source pixels, clamped to the image.
    center = torch.minimum((doubled - resized).clamp(min=0), (source - 1) * 2 * resized)
    below = center // (2 * resized)
    fraction = (center - below * 2 * resized).to(torch.float32) / (2 * resized).to(torch.float32)
    return AxisSampling(
        position=(below - start).to(torch.float32) + fraction,
        nearest=doubled // (2 * resized) - start,
        inside=inside,
    )
