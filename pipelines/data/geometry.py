"""Random resize, crop and flip as integers: planned on the host, exact on every device.

A picture of S pixels along an axis, resized to R, has resized pixel u centred at source coordinate
((2u + 1) S - R) / 2R (pixel centres at integers). All four numbers below are integers, so floor,
fraction and nearest neighbour are computed without rounding and agree between machines.
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
    """One axis of a crop: source size, resized size, where the crop starts in the resized picture
    (negative: padding comes first), and the source pixels [start, stop) that it needs."""

    source: int
    resized: int
    offset: int
    start: int
    stop: int

    @property
    def numbers(self) -> tuple[int, int, int, int]:
        """What the device needs to know."""
        return self.source, self.resized, self.offset, self.start


@dataclass(frozen=True)
class CropPlan:
    """Where one training crop comes from."""

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
    """Draw the crop of a picture of `size` (height, width) that follows from `key`.

    The picture is resized by a factor uniform in `scale`, and the crop lies anywhere inside it;
    along an axis where it is larger than the picture, the picture lies anywhere inside the crop.
    `contain` is a source pixel (row, column) that the crop has to show. `flip` is a probability.
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
    """Source pixels along one axis that hold the window of any crop of pictures of these sizes."""
    longest = 1
    for size in np.unique(sizes).tolist():
        resized = _resized(size, smallest_scale)
        longest = max(longest, min(size, (crop - 1) * size // resized + 3))
    return longest


def _resized(source: int, factor: float) -> int:
    return max(1, round(source * factor))


def _plan_axis(source: int, crop: int, factor: float, draw: float, contain: int | None) -> Axis:
    resized = _resized(source, factor)
    slack = resized - crop
    low, high = min(0, slack), max(0, slack)
    if contain is not None and slack > 0:
        shown = (2 * contain + 1) * resized // (2 * source)
        low, high = max(low, shown - crop + 1), min(high, shown)
    offset = low + int(draw * (high - low + 1))
    first, last = max(0, offset), min(resized, offset + crop) - 1
    start, _ = _neighbours(source, resized, first)
    _, stop = _neighbours(source, resized, last)
    return Axis(source, resized, offset, start, stop + 1)


def _neighbours(source: int, resized: int, pixel: int) -> tuple[int, int]:
    """The two source pixels between which a resized pixel is centred, edges repeated."""
    below = ((2 * pixel + 1) * source - resized) // (2 * resized)
    return min(max(below, 0), source - 1), min(max(below + 1, 0), source - 1)


@dataclass(frozen=True)
class AxisSampling:
    """Along one axis, for each pixel of each crop, (batch, crop): where it is read in the window.

    `position`: float32, for bilinear reading; `nearest`: int64, for labels; `inside`: bool, False
    in the padding, where the other two hold some position of the window.
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
    wanted = pixel + offset
    inside = (wanted >= 0) & (wanted < resized)
    wanted = torch.minimum(wanted.clamp(min=0), resized - 1)
    doubled = (2 * wanted + 1) * source
    # In units of 1 / 2R source pixels; reading outside the picture repeats its edge.
    centre = torch.minimum((doubled - resized).clamp(min=0), (source - 1) * 2 * resized)
    below = centre // (2 * resized)
    fraction = (centre - below * 2 * resized).to(torch.float32) / (2 * resized).to(torch.float32)
    return AxisSampling(
        position=(below - start).to(torch.float32) + fraction,
        nearest=doubled // (2 * resized) - start,
        inside=inside,
    )
