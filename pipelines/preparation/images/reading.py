"""Settings of how source images become arrays, and what each setting solves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipelines.preparation.images.header import Header
from pipelines.preparation.images.value_range import ValueRange
from pipelines.wording import counted

Exif = Literal["apply", "ignore"]
# The statistics to use, or mean and standard deviation of each channel.
Normalization = Literal["imagenet", "dataset"] | tuple[tuple[float, ...], tuple[float, ...]]

# Of 16 bits.
LARGEST_VALUE = 65535
# Beyond any stored value; differences and quotients of smaller numbers cannot overflow.
_LARGEST = 1e60
# Share of the rounded values in two levels from which on a scale leaves no detail.
_UNIFORM = 0.999


@dataclass(frozen=True)
class ImageReading:
    """How source images become arrays (height, width, channels).

    scale: the stored values that become 0 and 255, for images of more than 8 bits per value; with
        `bits` 16, the values that become 0 and 1 for a network.
    bands: numbers, from 1, of the bands that become channels; None for red, green and blue.
    exif: whether EXIF orientation is applied; None if it depends on each label's size.
    file: where `scale` and `bands` are set, for error messages; "" for command-line options.
    bits: of the values of the arrays: 8, or 16 to keep the stored values.
    rgb: numbers of the bands that are drawn in red, green and blue; None for the first three.
    normalization: of a network's input; None for ImageNet's if the arrays are 8-bit RGB, and for
        that of the data set otherwise.
    model_channels: number of channels that a model takes, if the images are for one.
    """

    scale: tuple[float, float] | None = None
    bands: tuple[int, ...] | None = None
    exif: Exif | None = None
    file: str = "`image_reading` of the reader"
    bits: int = 8
    rgb: tuple[int, ...] | None = None
    normalization: Normalization | None = None
    model_channels: int | None = None

    @property
    def chosen_bands(self) -> tuple[int, ...] | None:
        """The bands that become channels; None for red, green and blue."""
        if self.bands is None and self.model_channels not in (None, 3):
            assert self.model_channels is not None
            return tuple(range(1, self.model_channels + 1))
        return self.bands

    @property
    def channels(self) -> int:
        """Number of channels of the arrays."""
        return 3 if self.chosen_bands is None else len(self.chosen_bands)

    def setting(self, key: str, values: tuple[float, ...]) -> str:
        """Return how a user sets `key`: as a key of the file or as an option."""
        listed = [f"{value:g}" for value in values]
        if not self.file:
            return f"--{key}={','.join(listed)}"
        return f"`{key}: [{', '.join(listed)}]` in {self.file}"


def unreadable(header: Header, reading: ImageReading) -> str | None:
    """Return why an image cannot be read without loss, and the setting that helps; None if it can
    with a scale (see `lacks_scale`)."""
    if header.pages > 1:
        return pages_problem(header.pages)
    if header.problem:
        return header.problem
    if header.depth == "16-bit CMYK":
        return "stores 16-bit CMYK values, which cannot be converted here; save it as 16-bit RGB"
    stores = f"stores {counted(header.bands, 'band')}"
    if reading.bands is None and reading.model_channels is not None:
        wanted = reading.model_channels
        fits = header.bands == wanted
        if wanted == 3:
            fits = not header.tiff or header.bands in (1, 3)
        if not fits:
            text = f"{stores}, but the model takes {wanted}"
            if header.bands < wanted and wanted != 3:
                return text
            shown = tuple(min(band, header.bands) for band in range(1, wanted + 1))
            return f"{text}; choose them, such as {reading.setting('bands', shown)}"
    elif header.tiff and header.bands not in (1, 3) and reading.bands is None:
        bands = reading.setting("bands", tuple(range(1, header.bands + 1)))
        return (
            f"{stores}, and nothing says which to keep; set {bands}, or name three for red, green "
            "and blue"
        )
    if reading.bits == 16 and not header.depth:
        wanted_by = f"`bits: 16` in {reading.file}" if reading.file else "the model"
        return f"stores 8-bit values, but {wanted_by} requires 16-bit values"
    if reading.bits == 16 and "floating" in header.depth:
        return (
            "stores floating-point values, which 16 bits cannot keep; remove `bits` and set `scale`"
        )
    if reading.bands is not None and max(reading.bands) > header.bands:
        return f"{stores}, but `bands` names band {max(reading.bands)}"
    return None


def lacks_scale(header: Header, reading: ImageReading) -> str | None:
    """Return a sentence about an image of more than 8 bits if `scale` is not set, otherwise None.

    `scale_advice` completes it.
    """
    if not header.depth or reading.scale is not None or reading.bits == 16:
        return None
    return f"stores {header.depth} values, and no scale says which become black and white"


def suggested_scale(low: float, high: float) -> tuple[float, float]:
    """Return a plausible scale for stored values: their type's or their sensor's full range."""
    if low < 0:
        return low, high
    if high <= 1:
        return 0, 1
    bits = next((bits for bits in (8, 10, 12, 14, 16) if high < 2**bits), None)
    return (0, high) if bits is None else (0, 2**bits - 1)


def scale_advice(stored: ValueRange, reading: ImageReading) -> str:
    """Return the end of a sentence: the measured range, and the setting that would fit it."""
    low, high = stored.plausible
    text = (
        f"; they range from {low:g} to {high:g}{_left_out(stored)}, so that "
        f"{reading.setting('scale', suggested_scale(low, high))} may be right"
    )
    low, high = stored.full
    if reading.file and low >= 0 and 1 < high <= LARGEST_VALUE:
        text += ", or `bits: 16` to keep them"
    return text


def scale_problem(reading: ImageReading, stored: ValueRange) -> str | None:
    """Return why `scale` leaves no detail in any image, or None if it does."""
    if reading.scale is None:
        return None
    low, high = reading.scale
    covered = stored.clipped < stored.values and 255 * (stored.high - stored.low) >= high - low
    lowest, highest = stored.plausible
    suggested = suggested_scale(lowest, highest)
    # Arrays of 16 bits keep the stored values. Most values may be dark: no other scale is better.
    detailed = reading.bits == 16 or stored.uniform < _UNIFORM or suggested == reading.scale
    if covered and detailed:
        return None
    return (
        f"scale [{low:g}, {high:g}] leaves no detail in any image, because the stored values range "
        f"from {lowest:g} to {highest:g}{_left_out(stored)}; "
        f"{reading.setting('scale', suggested)} may be right"
    )


def used_scale(reading: ImageReading, stored: ValueRange) -> tuple[float, float]:
    """Return `scale`, or, if it is not set, one that clips no value."""
    return suggested_scale(*stored.full) if reading.scale is None else reading.scale


def scale_note(reading: ImageReading, stored: ValueRange) -> str:
    """Return a sentence about the stored values of the images that `scale` has converted."""
    low, high = used_scale(reading, stored)
    lowest, highest = stored.full
    if reading.scale is None:
        return (
            f"the images' values range from {lowest:g} to {highest:g}, so that networks "
            f"receive them with scale [{low:g}, {high:g}]"
        )
    text = f"scale [{low:g}, {high:g}]: the images' values range from {lowest:g} to {highest:g}"
    if stored.clipped:
        text += f"; {stored.clipped / stored.values:.2%} of them are outside it and were clipped"
    elif (highest - lowest) * 4 < high - low:
        text += ", less than a quarter of it, so that images are nearly uniform"
    return text


def _left_out(stored: ValueRange) -> str:
    """Return which values the stated range leaves out, as a part of a sentence."""
    if not stored.left_out:
        return ""
    listed = " and ".join(f"{value:g}" for value in stored.left_out)
    return f" (without {listed}, which may mean no data)"


def is_scale(value: object) -> bool:
    """Whether a value is a list of two numbers in ascending order, whose range float64 holds."""
    if not isinstance(value, list) or len(value) != 2:
        return False
    if not all(type(number) in (int, float) and abs(number) < _LARGEST for number in value):
        return False
    return bool(value[1] - value[0] > 1 / _LARGEST)


def is_bands(value: object) -> bool:
    """Whether a value is a list of band numbers."""
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(type(number) is int and number >= 1 for number in value)
    )


def pages_problem(pages: int) -> str:
    return (
        f"has {pages} pages or frames, of which only the first would be read; save each as a file "
        "of its own"
    )
