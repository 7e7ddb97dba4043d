"""Counter-based random numbers, in numpy and in torch.

Every draw is a hash of (key, stream), so it does not depend on earlier draws, on the batch, or on
the device. The hash is the finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014).
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
    """The purposes of a sample's draws; the numbers must never change."""

    SCALE = 1
    ROW = 2
    COLUMN = 3
    FLIP = 4
    BRIGHTNESS = 5
    CONTRAST = 6
    SATURATION = 7
    HUE = 8
    BLUR = 9


def hash_integers(*parts: int | NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hash integers, elementwise over arrays; returns uint64 of the broadcast shape."""
    state: NDArray[np.uint64] = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            bits = np.asarray(part, dtype=np.int64).astype(np.uint64)
            state = _finalize(state ^ (bits + np.uint64(_STEP)))
    return state


def sample_keys(
    seed: int, epoch: int, samples: NDArray[np.int64], occurrences: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the key of each sample's occurrence in an epoch, int64 (n,)."""
    return hash_integers(seed, epoch, samples, occurrences).view(np.int64)


def uniform(keys: NDArray[np.int64], stream: Stream) -> NDArray[np.float64]:
    """Draw one number from [0, 1) per key, on the host; the same as `uniform_tensor` draws."""
    with np.errstate(over="ignore"):
        bits = _finalize(keys.view(np.uint64) + np.uint64(stream * _STEP % _WORD))
    return (bits >> np.uint64(40)).astype(np.float64) * 2.0**-24


def uniform_tensor(keys: Tensor, stream: Stream) -> Tensor:
    """Draw one number from [0, 1) per int64 key, float32 on the keys' device."""
    bits = keys + _signed(stream * _STEP)
    bits = (bits ^ _shift(bits, 30)) * _signed(_FIRST)
    bits = (bits ^ _shift(bits, 27)) * _signed(_SECOND)
    bits = bits ^ _shift(bits, 31)
    return _shift(bits, 40).to(torch.float32) * 2.0**-24


def permutation(count: int, *key: int) -> NDArray[np.int64]:
    """Return a random permutation of `range(count)` that depends only on `key`."""
    return np.argsort(hash_integers(*key, np.arange(count)), kind="stable")


def _finalize(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(_FIRST)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(_SECOND)
    return bits ^ (bits >> np.uint64(31))


def _shift(bits: Tensor, count: int) -> Tensor:
    """Shift right logically; torch's shift of int64 is arithmetic."""
    return (bits >> count) & ((1 << (64 - count)) - 1)


def _signed(value: int) -> int:
    """Return the int64 with the bits of an unsigned 64-bit value."""
    value %= _WORD
    return value - _WORD if value >= _WORD // 2 else value
