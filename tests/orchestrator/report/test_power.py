"""Statistical power and the number of seeds needed, against tables and simulated tests."""

import numpy as np
import pytest
from scipy import stats

from orchestrator.report.power import power_of, seeds_needed, seeds_warning


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


def test_too_few_seeds_cause_a_warning() -> None:
    warning = seeds_warning(1, 1.5, None)
    assert warning is not None
    assert "1 seed is too few to detect the expected difference of 1.5 points; 4 are" in warning
    assert "assumed" in warning
    assert seeds_warning(4, 1.5, None) is None
    warning_with_deviation = seeds_warning(3, 1.5, 1.5)
    assert warning_with_deviation is not None
    assert "10 are needed" in warning_with_deviation
    assert "deviation of the differences 1.50, measured" in warning_with_deviation
