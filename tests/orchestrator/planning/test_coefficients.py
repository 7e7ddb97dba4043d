"""The fit of positive coefficients, against scipy's optimizer and against refits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import optimize

from orchestrator.planning.coefficients import Coefficients

Array = NDArray[np.float64]
THUMB = np.array([0.1, 0.1, 0.3, 0.005])
NOISE = 0.3
features = arrays(
    np.float64, st.tuples(st.integers(1, 6), st.just(4)), elements=st.floats(0.01, 99)
)


def measured(rows: Array, seed: int, spread: float = 1.0) -> Array:
    """Return times of a device whose coefficients differ from the rules, with errors of `NOISE`."""
    rng = np.random.default_rng(seed)
    truth = THUMB * np.exp(spread * rng.normal(size=4))
    return rows @ truth * np.exp(NOISE * rng.normal(size=len(rows)))


def fit_to(rows: Array, seconds: Array) -> Coefficients:
    return Coefficients.fit(rows, seconds, THUMB, np.full(len(rows), NOISE))


@settings(max_examples=50, deadline=None)
@given(rows=features, seed=st.integers(0, 99))
def test_no_other_coefficients_are_more_probable(rows: Array, seed: int) -> None:
    seconds = measured(rows, seed)
    deviations = np.diag([1.0] * 4) + 0.25  # a shared spread of 0.5, and of 1 for each
    root = np.linalg.cholesky(np.linalg.inv(deviations)).T

    def residuals(logs: Array) -> Array:
        errors = (np.log(seconds) - np.log(rows @ (THUMB * np.exp(logs)))) / NOISE
        return np.concatenate([errors, root @ logs])

    fit = fit_to(rows, seconds)
    reached = float(np.sum(residuals(np.log(fit.values / THUMB)) ** 2))
    best = min(
        optimize.least_squares(residuals, start).cost * 2
        for start in (np.zeros(4), np.log(fit.values / THUMB))
    )
    assert reached == pytest.approx(best, rel=1e-4, abs=1e-6)


@given(rows=features, seed=st.integers(0, 99))
def test_fit_is_more_certain_than_the_rules_and_always_finite(rows: Array, seed: int) -> None:
    fit = fit_to(rows, measured(rows, seed, spread=3.0))
    assert (fit.values > 0).all()
    assert np.isfinite(fit.values).all()
    for row in rows:
        assert 0 < fit.spread(row) < NOISE  # it was measured
    assert np.linalg.eigvalsh(Coefficients.prior(THUMB).covariance - fit.covariance).min() > -1e-9


def test_error_scale_follows_from_fits_without_each_measurement() -> None:
    rng = np.random.default_rng(5)
    rows = rng.uniform(0.5, 20, (40, 4))
    for factor in (0.3, 1.0, 3.0):
        seconds = rows @ (2 * THUMB) * np.exp(factor * NOISE * rng.normal(size=40))
        squares = []
        for left_out in range(40):
            kept = np.arange(40) != left_out
            fit = fit_to(rows[kept], seconds[kept])
            error = np.log(seconds[left_out] / fit.seconds(rows[left_out]))
            squares.append(error**2 / (NOISE**2 + fit.spread(rows[left_out]) ** 2))
        expected = np.sqrt((2 + np.sum(squares)) / (2 + 40))
        scale = fit_to(rows, seconds).error_scale
        assert scale == pytest.approx(expected, rel=0.05)
        assert scale == pytest.approx(factor, rel=0.35)


def test_a_measurement_moves_the_coefficient_that_dominates_it() -> None:
    overhead = np.array([[1.0, 0.01, 0.01, 0.0]])
    fit = fit_to(overhead, np.array([0.8]))
    constant, per_gflop, _, _ = fit.values / THUMB
    assert constant > 4
    assert per_gflop < 2
    assert fit.spread(np.array([0.0, 1.0, 0.0, 0.0])) > 0.9
    assert fit.spread(np.array([1.0, 0.0, 0.0, 0.0])) < 0.35
