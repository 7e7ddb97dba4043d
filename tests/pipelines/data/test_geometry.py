"""Planned crops against exact rational arithmetic."""

import math
from fractions import Fraction

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.geometry import Axis, canvas_size, plan_crop, sample_axis
from pipelines.data.randomness import Stream, uniform

SIZES = st.tuples(st.integers(1, 90), st.integers(1, 90))
SCALES = st.sampled_from([(0.5, 2.0), (1.0, 1.0), (0.25, 0.5), (0.1, 3.0)])
KEY = st.integers(-(2**63), 2**63 - 1)


def resample(axis: Axis, crop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return source positions, nearest source pixels and validity by definition."""
    pixel = np.arange(crop) + axis.offset
    inside = (pixel >= 0) & (pixel < axis.resized)
    ratio = Fraction(axis.source, axis.resized)
    centers = [(u + Fraction(1, 2)) * ratio for u in pixel.clip(0, axis.resized - 1).tolist()]
    positions = np.array([float(center - Fraction(1, 2)) for center in centers])
    nearest = np.array([math.floor(center) for center in centers])
    return positions.clip(0, axis.source - 1), nearest, inside


@given(SIZES, SIZES, SCALES, KEY)
def test_windows_contain_all_pixels_of_their_crops(
    size: tuple[int, int], crop: tuple[int, int], scale: tuple[float, float], key: int
) -> None:
    plan = plan_crop(size, crop, scale, 0.5, key)
    for axis, length, crop_length in zip((plan.rows, plan.columns), size, crop, strict=True):
        assert 0 <= axis.start < axis.stop <= length
        window = axis.stop - axis.start
        assert window <= canvas_size(np.array([length]), crop_length, scale[0])
        sampled = sample_axis(torch.tensor([axis.numbers]), crop_length, None)
        position, nearest, inside = resample(axis, crop_length)
        assert np.array_equal(sampled.inside[0].numpy(), inside)
        assert inside.any()
        positions = sampled.position[0].double().numpy() + axis.start
        assert np.allclose(positions[inside], position[inside], atol=1e-4)
        assert (sampled.position >= 0).all()
        assert (sampled.position <= window - 1).all()
        assert ((sampled.nearest >= 0) & (sampled.nearest < window))[0][inside].all()
        assert np.array_equal(sampled.nearest[0].numpy() + axis.start, nearest)


@given(SIZES, SIZES, SCALES, KEY, st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)))
def test_crops_contain_the_required_pixel(
    size: tuple[int, int],
    crop: tuple[int, int],
    scale: tuple[float, float],
    key: int,
    fraction: tuple[float, float],
) -> None:
    crop_length = (int(fraction[0] * size[0]), int(fraction[1] * size[1]))
    plan = plan_crop(size, crop, scale, 0.5, key, contain=crop_length)
    for axis, pixel, length in zip((plan.rows, plan.columns), crop_length, crop, strict=True):
        resized = int((pixel + 0.5) * axis.resized / axis.source)
        assert 0 <= resized - axis.offset < length
        assert axis.start <= pixel < axis.stop or axis.resized < axis.source


@given(SIZES, SCALES, KEY)
def test_flips_mirror_the_columns(
    size: tuple[int, int], scale: tuple[float, float], key: int
) -> None:
    axis = plan_crop(size, (17, 23), scale, 0.5, key).columns
    numbers = torch.tensor([axis.numbers, axis.numbers])
    sampled = sample_axis(numbers, 23, torch.tensor([False, True]))
    for values in (sampled.position, sampled.nearest, sampled.inside):
        assert torch.equal(values[0], values[1].flip(0))


def test_offsets_reach_every_position() -> None:
    larger = {plan_crop((12, 12), (8, 8), (1, 1), 0, key).rows.offset for key in range(200)}
    smaller = {plan_crop((6, 6), (8, 8), (1, 1), 0, key).rows.offset for key in range(200)}
    assert larger == {0, 1, 2, 3, 4}
    assert smaller == {-2, -1, 0}


@given(KEY)
def test_scale_row_column_and_flip_are_drawn_from_their_own_streams(key: int) -> None:
    scale, row, column, flip = (
        float(uniform(np.array([key]), stream)[0])
        for stream in (Stream.SCALE, Stream.ROW, Stream.COLUMN, Stream.FLIP)
    )
    plan = plan_crop((100, 200), (10, 10), (0.5, 2.0), 0.3, key)
    factor = 0.5 + 1.5 * scale
    height, width = round(100 * factor), round(200 * factor)
    assert (plan.rows.resized, plan.columns.resized) == (height, width)
    # Each of the positions from 0 to the last one is equally likely.
    assert plan.rows.offset == int(row * (height - 10 + 1))
    assert plan.columns.offset == int(column * (width - 10 + 1))
    assert plan.flip == (flip < 0.3)
