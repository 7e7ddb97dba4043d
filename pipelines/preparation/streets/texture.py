"""Procedural textures: periodic noise with mipmaps, so that detail fades with distance."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

# In fact float32 where speed matters; mypy cannot follow numpy's type promotion.
Floats = NDArray[np.floating[Any]]

SIDE = 256  # texels of a period at the finest level
LEVELS = 8


class Texture:
    """A periodic gray texture with mean 0; `span` is the length of its period in meters.

    Each mipmap level averages squares of 2 x 2 texels of the level before.
    """

    def __init__(self, pixels: Floats, span: float) -> None:
        self.span = span
        levels = [pixels]
        for _ in range(LEVELS - 1):
            fine = levels[-1]
            half = fine.shape[0] // 2
            levels.append(fine.reshape(half, 2, half, 2).mean(axis=(1, 3)))
        self._flat = np.concatenate([level.ravel() for level in levels]).astype(np.float32)
        sizes = np.array([level.shape[0] for level in levels])
        self._sizes = sizes.astype(np.int32)
        self._starts = np.concatenate([[0], np.cumsum(sizes**2)[:-1]]).astype(np.int32)

    def __call__(self, u: Floats, v: Floats, footprint: Floats) -> Floats:
        """Return the values at (u, v) in meters, averaged over `footprint` meters per pixel.

        All arguments have the same shape.
        """
        texels = np.maximum(footprint * (SIDE / self.span), 1.0)
        level = np.minimum(np.log2(texels), LEVELS - 1).astype(np.int32)
        size = self._sizes[level]
        column = np.floor(u / self.span * size).astype(np.int32) % size
        row = np.floor(v / self.span * size).astype(np.int32) % size
        values: Floats = self._flat[self._starts[level] + row * size + column]
        return values


def _spectrum(seed: int, low: float, high: float, slope: float, stretch: float = 1.0) -> Floats:
    """Return periodic noise of unit variance between two frequencies, in cycles per period."""
    white = np.random.default_rng(seed).standard_normal((SIDE, SIDE))
    fy = np.fft.fftfreq(SIDE)[:, None] * SIDE * stretch
    fx = np.fft.fftfreq(SIDE)[None, :] * SIDE
    frequency = np.hypot(fx, fy)
    gain = np.where(
        (frequency >= low) & (frequency <= high), np.maximum(frequency, 1) ** -slope, 0.0
    )
    values = np.fft.ifft2(np.fft.fft2(white) * gain).real
    return ((values - values.mean()) / values.std()).astype(np.float32)


def floats(values: Sequence[float]) -> Floats:
    """Convert to a float32 vector."""
    return np.array(values, np.float32)


@cache
def textures() -> dict[str, Texture]:
    """Return the textures by name, created once per process."""
    clumps = np.tanh(1.5 * _spectrum(3, 6, 40, 0.4)) + 0.5 * _spectrum(4, 30, 120, 0.2)
    return {
        "cloud": Texture(_spectrum(1, 1, 60, 1.7), span=1.0),
        "rough": Texture(_spectrum(2, 1, 128, 1.0), span=6.0),
        "leaves": Texture(clumps.astype(np.float32), span=4.0),
        "needles": Texture(_spectrum(5, 10, 128, 0.3, stretch=0.25), span=4.0),
        "grain": Texture(_spectrum(6, 20, 128, 0.0), span=3.0),
        "streaks": Texture(_spectrum(7, 2, 100, 0.8, stretch=6.0), span=8.0),
    }


def hash_unit(*parts: NDArray[np.int32] | int) -> Floats:
    """Hash integers to numbers in [0, 1), such as a random number for each window of a facade."""
    state = np.uint32(0x9E3779B9) * np.ones((), np.uint32)
    with np.errstate(over="ignore"):
        for part in parts:
            state = (state ^ np.asarray(part).astype(np.uint32)) * np.uint32(0x85EBCA6B)
            state = (state ^ (state >> np.uint32(13))) * np.uint32(0xC2B2AE35)
            state = state ^ (state >> np.uint32(16))
    return (state >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
