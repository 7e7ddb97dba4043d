"""Random numbers that follow from a key alone: a counter-based hash in numpy and in torch.

Every draw is a function of (key, stream), so it does not depend on what was drawn before, on the
batch a sample is in, or on the device. The hash is the finaliser of SplitMix64 (Steele, Lea and
Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_STEP = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_WORD = 1 << 64


class Stream(IntEnum):
    """What a sample's draws are for; the numbers must never change their meaning."""

    SCALE = 1
    ROW = 2
    COLUMN = 3
    FLIP = 4
    BRIGHTNESS = 5
    CONTRAST = 6
    SATURATION = 7
    HUE = 8
    BLUR = 9


def combine(*parts: int | NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hash of integers, elementwise over arrays: uint64 of their broadcast shape."""
    state: NDArray[np.uint64] = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            bits = np.asarray(part, dtype=np.int64).astype(np.uint64)
            state = _finalise(state ^ (bits + np.uint64(_STEP)))
    return state


def sample_keys(
    seed: int, epoch: int, samples: NDArray[np.int64], occurrences: NDArray[np.int64]
) -> NDArray[np.int64]:
    """int64 (n,): the key of each sample at one of its occurrences in an epoch."""
    return combine(seed, epoch, samples, occurrences).view(np.int64)


def uniform(keys: NDArray[np.int64], stream: Stream) -> NDArray[np.float64]:
    """Draws from [0, 1) on the host, one a key; equal to those of `uniform_tensor`."""
    with np.errstate(over="ignore"):
        bits = _finalise(keys.view(np.uint64) + np.uint64(stream * _STEP % _WORD))
    return (bits >> np.uint64(40)).astype(np.float64) * 2.0**-24


def uniform_tensor(keys: Tensor, stream: Stream) -> Tensor:
    """float32 draws from [0, 1) on the keys' device, one a key (int64)."""
    bits = keys + _signed(stream * _STEP)
    bits = (bits ^ _shift(bits, 30)) * _signed(_FIRST)
    bits = (bits ^ _shift(bits, 27)) * _signed(_SECOND)
    bits = bits ^ _shift(bits, 31)
    return _shift(bits, 40).to(torch.float32) * 2.0**-24


def permutation(count: int, *key: int) -> NDArray[np.int64]:
    """A random order of `range(count)` that follows from `key`."""
    return np.argsort(combine(*key, np.arange(count)), kind="stable")


def _finalise(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(_FIRST)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(_SECOND)
    return bits ^ (bits >> np.uint64(31))


def _shift(bits: Tensor, places: int) -> Tensor:
    """Logical right shift; torch's own shift of int64 carries the sign."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _signed(value: int) -> int:
    value %= _WORD
    return value - _WORD if value >= _WORD // 2 else value
