"""Statistical power and the number of seeds needed, against tables and simulated tests."""

import numpy as np
import pytest
from scipy import stats

from orchestrator.report.statistics.power import power_of, seeds_needed, seeds_warning


@pytest.mark.parametrize(
    ("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10), (1.5, 6), (2.0, 5)]
)
def test_seeds_needed_match_the_tables(effect: float, seeds: int) -> None:
    """Paired t-test, two-sided 5 %, power 80 %: values from Cohen's tables."""
    assert seeds_needed(effect, 1.0) == seeds
    assert seeds_needed(3 * effect, 3.0) == seeds


def test_power_matches_simulated_tests() -> None:
    samples = np.random.default_rng(0).normal(1.0, 1.2, (20_000, 6))
    rejected = stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05
    assert power_of(6, 1.0, 1.2) == pytest.approx(rejected.mean(), abs=0.015)
    assert power_of(1, 1.0, 1.2) == 0
    assert power_of(6, 100.0, 0.01) == 1
    assert seeds_needed(1e-6, 1.0) is None


def test_pooled_spread_needs_fewer_seeds() -> None:
    assert seeds_needed(1.5, 0.57) == 4
    assert seeds_needed(1.5, 0.57, rows=7) == 2
    assert seeds_needed(1.5, 0.57, rows=7, comparisons=6) == 4
    assert seeds_needed(1.5, 0.57, comparisons=6) == 6
    assert power_of(2, 1.5, 0.57) == 0


def test_too_few_seeds_cause_a_warning() -> None:
    warning = seeds_warning(1, 1.5, "published")
    assert warning is not None
    assert warning.startswith("One seed cannot test a difference. 4 seeds would detect 1.5 points")
    assert "(published)" in warning
    assert "assumed" in warning
    assert seeds_warning(4, 1.5, "published") is None
    warning = seeds_warning(3, 1.5, "published")
    assert warning is not None
    assert "3 seeds detect 1.5 points (published) in about 66 % of studies, 4 seeds in" in warning
