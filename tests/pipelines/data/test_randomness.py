"""Keyed random numbers: the hash against plain integers, uniformity and independence."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.randomness import (
    Stream,
    hash_integers,
    permutation,
    sample_keys,
    uniform,
    uniform_streams,
)

KEYS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20)


def splitmix64(key: int, stream: int) -> int:
    """Return the SplitMix64 output number `stream` for the state `key`, in Python's integers."""
    word = 2**64
    bits = (key + stream * 0x9E3779B97F4A7C15) % word
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 % word
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB % word
    return bits ^ bits >> 31


@given(KEYS, st.sampled_from(Stream))
def test_draws_are_the_upper_bits_of_splitmix64(keys: list[int], stream: Stream) -> None:
    array = np.array(keys, dtype=np.int64)
    expected = [(splitmix64(key, stream) >> 40) / 2**24 for key in keys]
    assert uniform(array, stream).tolist() == expected
    assert uniform_streams(array)[:, stream - 1].tolist() == expected
    assert all(0 <= draw < 1 for draw in expected)


def test_draws_are_uniform_and_streams_uncorrelated() -> None:
    keys = sample_keys(0, 3, np.arange(20000), np.zeros(20000, np.int64))
    flips, hues = uniform(keys, Stream.FLIP), uniform(keys, Stream.HUE)
    counts, _ = np.histogram(flips, bins=20, range=(0, 1))
    assert abs(counts - 1000).max() < 160  # five standard deviations
    assert abs(np.corrcoef(flips, hues)[0, 1]) < 0.03


def test_every_key_part_changes_the_hash() -> None:
    parts = np.array([(s, e, i, o) for s in range(4) for e in range(4) for i in range(9)
                      for o in range(2)])  # fmt: skip
    assert len(np.unique(hash_integers(*parts.T))) == len(parts)


def test_key_depends_on_seed_epoch_sample_and_occurrence() -> None:
    seed, epoch, sample, occurrence = np.indices((3, 3, 4, 2)).reshape(4, -1)
    keys = [
        int(sample_keys(s, e, np.array([i]), np.array([o]))[0])
        for s, e, i, o in zip(seed, epoch, sample, occurrence, strict=True)
    ]
    assert len(set(keys)) == len(keys)


def test_key_is_the_hash_in_plain_integers() -> None:
    state = 0
    for part in (3, 5, 7, 2):
        state = splitmix64(state ^ (part + 0x9E3779B97F4A7C15), 0)
    (key,) = sample_keys(3, 5, np.array([7]), np.array([2])).tolist()
    # Changing this value makes all previous results irreproducible.
    assert key == state - 2**64 == -941836434082300934


@given(st.integers(1, 300), st.integers(0, 2**31), st.integers(0, 1000))
def test_permutation_contains_every_index_once(count: int, seed: int, epoch: int) -> None:
    assert np.array_equal(np.sort(permutation(count, seed, epoch)), np.arange(count))


def test_permutation_values_are_fixed() -> None:
    # Changing these values makes all previous results irreproducible.
    assert permutation(8, 0, 0).tolist() == [7, 5, 3, 1, 4, 2, 6, 0]
