"""Counter-based random numbers, drawn on the host.

Every draw is a hash of (key, stream), so it does not depend on earlier draws or on the batch. The
hash is the finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014).
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

_STEP = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_WORD = 1 << 64
# Distinguishes the draws by class from other hashes of a sample's key.
_CLASSES = -2


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
    VERTICAL_FLIP = 10
    ROTATE90 = 11
    CUTMIX = 12
    CUT_AREA = 13
    CUT_ROW = 14
    CUT_COLUMN = 15


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
    """Draw one number from [0, 1) per int64 key: a multiple of 2^-24, exact in float32."""
    with np.errstate(over="ignore"):
        bits = _finalize(keys.view(np.uint64) + np.uint64(stream * _STEP % _WORD))
    return (bits >> np.uint64(40)).astype(np.float64) * 2.0**-24


def uniform_streams(keys: NDArray[np.int64]) -> NDArray[np.float32]:
    """Draw one number per int64 key and stream, (n, streams); stream s is column s - 1."""
    return np.stack([uniform(keys, stream) for stream in Stream], axis=1).astype(np.float32)


def uniform_classes(keys: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Draw one number from [0, 1) per int64 key and class, (n, classes)."""
    bits = hash_integers(keys[:, None], _CLASSES, np.arange(classes))
    return ((bits >> np.uint64(40)).astype(np.float64) * 2.0**-24).astype(np.float32)


def permutation(count: int, *key: int) -> NDArray[np.int64]:
    """Return a random permutation of `range(count)` that depends only on `key`."""
    return np.argsort(hash_integers(*key, np.arange(count)), kind="stable")


def _finalize(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(_FIRST)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(_SECOND)
    return bits ^ (bits >> np.uint64(31))
