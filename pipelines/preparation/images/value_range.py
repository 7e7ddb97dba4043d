"""Which values images of more than 8 bits store, and what a scale makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A value that moves to its level by more than this fraction of a level is rounded or clipped.
_ROUNDING = 1e-6
# Values that are measured together; more would take memory.
_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class ValueRange:
    """The stored values of scaled images.

    low, high: the lowest and the highest. values: how many. clipped: how many beyond the scale.
    second_low, second_high: the lowest and the highest other value; `low` and `high` if there is
    none. no_data: values that the files declare to mean no data, which the range leaves out.
    empty: whether every value means no data; the range is then that of these values.
    levels, rounded: how many values became each of the 256 levels, and how many of them by rounding
    or clipping; empty without a scale.
    """

    low: float
    high: float
    values: int
    clipped: int
    second_low: float
    second_high: float
    no_data: tuple[float, ...] = ()
    empty: bool = False
    levels: tuple[int, ...] = ()
    rounded: tuple[int, ...] = ()

    @property
    def full(self) -> tuple[float, float]:
        """The lowest and the highest value, also of those that mean no data."""
        return min(self.low, *self.no_data, self.high), max(self.low, *self.no_data, self.high)

    @property
    def plausible(self) -> tuple[float, float]:
        """The range without outliers: a negative lowest value, or a highest value, whose distance
        to the next value exceeds the span of the values in between."""
        span = self.second_high - self.second_low
        low, high = self.low, self.high
        if span > 0 and low < 0 and self.second_low - low > span:
            low = self.second_low
        if span > 0 and high - self.second_high > span:
            high = self.second_high
        return low, high

    @property
    def left_out(self) -> tuple[float, ...]:
        """The values outside `plausible`."""
        extremes = zip((self.low, self.high), self.plausible, strict=True)
        others = (stored for stored, plausible in extremes if stored != plausible)
        return tuple(dict.fromkeys((*self.no_data, *others)))

    @property
    def uniform(self) -> float:
        """How nearly uniform the scaled images are, 0 to 1: the fraction of the rounded values in
        their two most frequent levels, or of all values in one more level, which may be stored
        exactly, such as no data; the smaller one. 0 if fewer than 1 % of the values are rounded."""
        total = sum(self.rounded)
        if not total or 100 * total < self.values:
            return 0.0
        # Images with many exactly stored levels keep their detail even if other values are clipped.
        shares = sum(sorted(self.rounded)[-2:]) / total, sum(sorted(self.levels)[-3:]) / self.values
        return min(shares)


def measured_range(
    values: NDArray[Any], scale: tuple[float, float] | None = None, no_data: float | None = None
) -> ValueRange:
    """Return the range of finite values of any shape, of which there is at least one.

    scale: the values that become 0 and 255, if they do. no_data: the value that means no data.
    """
    flat = values.reshape(-1)
    parts = (flat[start : start + _AT_ONCE] for start in range(0, flat.size, _AT_ONCE))
    stored = merged_range(_range_of(part.astype(np.float64), scale, no_data) for part in parts)
    assert stored is not None, "an image has pixels"
    return stored


def _range_of(
    numbers: NDArray[np.float64], scale: tuple[float, float] | None, no_data: float | None
) -> ValueRange:
    declared = numbers == no_data
    kept = numbers if declared.all() else numbers[~declared]
    low, high = float(kept.min()), float(kept.max())
    clipped, counts, rounded = 0, np.zeros(0, np.int64), np.zeros(0, np.int64)
    if scale is not None:
        clipped = int(((numbers < scale[0]) | (numbers > scale[1])).sum())
        exact = (numbers - scale[0]) / (scale[1] - scale[0]) * 255
        levels = np.rint(exact.clip(0, 255)).astype(np.uint8)
        counts = np.bincount(levels, minlength=256)
        rounded = np.bincount(levels[np.abs(levels - exact) > _ROUNDING], minlength=256)
    return ValueRange(
        low,
        high,
        numbers.size,
        clipped,
        # `where` excludes every value of a constant image.
        second_low=min(high, float(kept.min(where=kept > low, initial=np.inf))),
        second_high=max(low, float(kept.max(where=kept < high, initial=-np.inf))),
        no_data=(float(no_data),) if no_data is not None and declared.any() else (),
        empty=bool(declared.all()),
        levels=tuple(counts.tolist()),
        rounded=tuple(rounded.tolist()),
    )


def merged_range(ranges: Iterable[ValueRange | None]) -> ValueRange | None:
    """Return the range of all images together; None if none of them was scaled."""
    known = [each for each in ranges if each is not None]
    if not known:
        return None
    ends = [each for each in known if not each.empty] or known
    low, high = min(each.low for each in ends), max(each.high for each in ends)
    inner = [value for each in ends for value in (each.second_low, each.second_high)]
    inner += [value for each in ends for value in (each.low, each.high)]
    return ValueRange(
        low=low,
        high=high,
        values=sum(each.values for each in known),
        clipped=sum(each.clipped for each in known),
        second_low=min((value for value in inner if value > low), default=low),
        second_high=max((value for value in inner if value < high), default=high),
        no_data=tuple(sorted({value for each in known for value in each.no_data})),
        empty=all(each.empty for each in known),
        levels=_sums(each.levels for each in known),
        rounded=_sums(each.rounded for each in known),
    )


def _sums(histograms: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*(each for each in histograms if each), strict=True)))
