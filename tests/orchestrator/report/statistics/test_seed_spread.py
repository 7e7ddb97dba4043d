"""The spread over seeds of rows against the closed forms of randomized blocks."""

import numpy as np
import pytest

from orchestrator.report.statistics.seed_spread import (
    PRIOR,
    fold_error,
    fold_means,
    residuals,
    seed_error,
)


def rows_of(values: np.ndarray) -> list[dict[int, float]]:
    return [dict(enumerate(map(float, row))) for row in values]


def test_residuals_match_two_way_analysis_of_variance() -> None:
    values = np.random.default_rng(0).normal(70, 1, (5, 4))
    left = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    residual = residuals(rows_of(values))
    assert residual.freedom == 4 * 3
    assert residual.squares == pytest.approx((left**2).sum())


def test_rows_and_seeds_add_nothing_to_the_residuals() -> None:
    additive = np.arange(5)[:, None] * 3.0 + np.array([0.0, -7.0, 11.0])
    rows = rows_of(additive)
    del rows[1][2], rows[3][0]  # incomplete blocks
    residual = residuals(rows)
    assert residual.freedom == 13 - (5 + 3 - 1)
    assert residual.squares == pytest.approx(0, abs=1e-18)
    assert residuals([]).freedom == 0


def test_equal_spreads_are_pooled() -> None:
    values = np.random.default_rng(3).normal(0, 0.5, (400, 3))
    rows = rows_of(values)
    differences = [rows[0][seed] - rows[1][seed] for seed in range(3)]
    error = seed_error(rows[0], rows[1], rows[2:], differences)
    assert error is not None
    assert error.method == "pooled"
    assert error.freedom == PRIOR + 2
    base = np.var(values[1], ddof=1)
    expected = 0.25 + (PRIOR * 0.25 + 2 * base) / (PRIOR + 2)
    # Seeds have no common effect here, so the mean of the other rows is nearly 0.
    assert 3 * error.standard_error**2 == pytest.approx(expected, rel=0.1)


def test_variance_of_the_base_is_moderated_by_that_of_all_rows() -> None:
    row, base, other = np.array([[0.1, 0.5, 0.3, 0.2], [0.9, 0.0, 0.4, 1.2], [0.6, 0.4, 0.1, 0.3]])
    error = seed_error(*rows_of(np.array([row, base])), rows_of(np.array([other])), row - base)
    values = np.array([row, base, other])
    left = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    pooled = (left**2).sum() / (2 * 3)
    # The variance of the base minus the mean of the other two has half of theirs.
    theirs = np.var(row - other, ddof=1) / 2
    own = np.var(base - (row + other) / 2, ddof=1) - theirs / 2
    variance = pooled + (3 * pooled + 3 * own) / 6
    assert error is not None
    assert (error.method, error.freedom) == ("pooled", 6)
    assert error.standard_error == pytest.approx(np.sqrt(variance / 4))


@pytest.mark.parametrize("noisy", [0, 1], ids=["row", "base"])
def test_row_with_a_larger_spread_is_not_pooled(noisy: int) -> None:
    values = np.random.default_rng(3).normal(0, 0.2, (7, 5))
    values[noisy] *= 10
    rows = rows_of(values)
    differences = [rows[0][seed] - rows[1][seed] for seed in range(5)]
    error = seed_error(rows[0], rows[1], rows[2:], differences)
    assert error is not None
    assert (error.method, error.freedom) == ("own spread", 4)
    assert error.standard_error == pytest.approx(np.std(differences, ddof=1) / np.sqrt(5))
    other = seed_error(rows[2], rows[3], [*rows[:2], *rows[4:]], [0.1, 0.3, 0.2, 0.0, 0.1])
    assert other is not None
    assert other.method == "pooled"


def test_two_rows_or_one_seed_cannot_be_pooled() -> None:
    row, base = {0: 1.0, 1: 2.0}, {0: 0.5, 1: 0.0}
    error = seed_error(row, base, [], [0.5, 2.0])
    assert error is not None
    assert (error.method, error.freedom) == ("own spread", 1)
    assert seed_error(row, base, [], [0.5]) is None


def test_folds_have_the_variance_of_the_corrected_resampled_t_test() -> None:
    """Nadeau and Bengio (2003): 1/J + scored/training images, on the means over seeds."""
    rng = np.random.default_rng(1)
    scores = {(seed, fold): float(rng.normal(70, 1)) for fold in (0, 1, 3) for seed in (5, 2)}
    scores[7, 1] = 71.0
    base = dict.fromkeys(scores, 70.0)
    differences = {key: value - 70.0 for key, value in scores.items()}
    means = [
        np.mean([value for (_, own), value in differences.items() if own == fold])
        for fold in (0, 1, 3)
    ]
    assert fold_means(differences) == pytest.approx(dict(zip((0, 1, 3), means, strict=True)))
    error = fold_error(scores, base, [], differences, folds=5)
    assert error is not None
    assert (error.method, error.freedom) == ("own spread", 2)
    images, held_out = 100, 20
    factor = 1 / 3 + held_out / (images - held_out)
    assert error.standard_error**2 == pytest.approx(np.var(means, ddof=1) * factor)
    one = {key: value for key, value in scores.items() if key[1] == 0}
    assert fold_error(one, base, [], one, folds=5) is None
