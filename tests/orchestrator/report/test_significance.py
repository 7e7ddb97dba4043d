"""Confidence intervals and p values against scipy, tables and simulated studies."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from orchestrator.report.bootstrap import group_sizes, resampled_miou
from orchestrator.report.significance import compare, holm, replicated_differences
from tests.support.fabricated_counts import counts_of, naive_miou, random_counts


def test_one_seed_matches_the_paired_bootstrap_of_scipy() -> None:
    ours, base = (random_counts(seed, ("one",) * 30) for seed in (1, 2))

    def statistic(images: NDArray[np.int64]) -> float:
        chosen = [int(image) for image in images]
        return naive_miou(ours.values, chosen) - naive_miou(base.values, chosen)

    reference = stats.bootstrap(
        (np.arange(30),),
        statistic,
        vectorized=False,
        n_resamples=3000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    row, other = resampled_miou([ours, base])
    comparison = compare({0: ours.miou}, {0: base.miou}, {0: row}, {0: other})
    assert comparison is not None
    assert comparison.interval is not None
    width = reference.high - reference.low
    assert comparison.interval == pytest.approx((reference.low, reference.high), abs=0.06 * width)
    assert comparison.deviation is None
    assert comparison.t_test is None


def test_several_seeds_match_the_paired_t_test_of_scipy() -> None:
    """Without variation over images, the result for five seeds equals the t-test."""
    row = {seed: 70 + value for seed, value in enumerate([1.0, 2.5, 0.5, 1.5, 3.0])}
    base = {seed: 69 + 0.3 * seed for seed in range(6)}
    row_replicates = {seed: np.full(20_000, value) for seed, value in (base | row).items()}
    base_replicates = {seed: np.full(20_000, value) for seed, value in base.items()}
    comparison = compare(row, base, row_replicates, base_replicates)
    reference = stats.ttest_rel(list(row.values()), list(base.values())[:5])
    assert comparison is not None
    assert comparison.seeds == (0, 1, 2, 3, 4)
    assert comparison.t_test == reference.pvalue
    assert comparison.p == pytest.approx(reference.pvalue, abs=0.01)
    expected = reference.confidence_interval(0.95)
    assert comparison.interval == pytest.approx((expected.low, expected.high), abs=0.1)


def test_equal_rows_have_zero_difference() -> None:
    counts = random_counts(3, ("a",) * 5 + ("b",) * 5)
    first, second = resampled_miou([counts, counts])
    assert (first == second).all()
    comparison = compare({0: 1.0}, {0: 1.0}, {0: first}, {0: second})
    assert comparison is not None
    assert (comparison.mean, comparison.interval, comparison.p) == (0.0, (0.0, 0.0), 1.0)
    assert group_sizes(counts) == {"a": 5, "b": 5}


def test_difference_without_replicates_has_no_interval() -> None:
    comparison = compare({0: 71.0, 1: 72.0}, {1: 70.0}, {0: np.zeros(9)}, {1: np.zeros(9)})
    assert comparison is not None
    assert (comparison.mean, comparison.seeds, comparison.interval, comparison.p) == (
        2.0,
        (1,),
        None,
        None,
    )
    assert compare({0: 71.0}, {1: 70.0}, {}, {}) is None
    with pytest.raises(ValueError, match="same images"):
        resampled_miou([random_counts(0, ("a",) * 3), random_counts(0, ("a",) * 4)])


def resampled_seeds(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Resample the seeds with replacement, which `replicated_differences` does not do."""
    count, replicates = differences.shape
    indices = np.random.default_rng(0).integers(count, size=(count, replicates))
    return np.take_along_axis(differences, indices, axis=0).mean(axis=0)


def coverage(
    seeds: int, method: Callable[[NDArray[np.float64]], NDArray[np.float64]], studies: int = 300
) -> float:
    """Return the share of simulated studies of two equally good rows whose interval contains 0.

    Images vary in difficulty, in an effect per row, and in noise per seed; trainings vary as a
    whole.
    """
    rng = np.random.default_rng(11)
    covering = 0
    for _ in range(studies):
        images, pixels = 40, 400
        difficulty = rng.normal(1.2, 0.6, images)
        scored = []
        for _ in range(2):
            preference = rng.normal(0, 0.3, images)
            for _ in range(seeds):
                level = difficulty + preference + rng.normal(0, 0.1) + rng.normal(0, 0.1, images)
                correct = rng.binomial(pixels, 1 / (1 + np.exp(-level[:, None].repeat(2, 1))))
                wrong = pixels - correct
                scored.append(counts_of(np.stack([correct, wrong[:, ::-1], wrong], axis=-1)))
        resampled = resampled_miou(scored, 1000)
        replicates = method(np.stack(resampled[:seeds]) - np.stack(resampled[seeds:]))
        low, high = np.quantile(replicates, [0.025, 0.975])
        covering += bool(low <= 0 <= high)
    return covering / studies


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_reach_their_nominal_coverage(seeds: int) -> None:
    # The standard error of a coverage of 0.95 over 300 studies is 0.0126.
    assert coverage(seeds, replicated_differences) > 0.95 - 3 * 0.0126


@pytest.mark.slow
def test_resampling_two_seeds_undercovers() -> None:
    assert coverage(2, resampled_seeds) < coverage(2, replicated_differences)
    # Without variation over images, the interval excludes 0 for the half of all pairs that agree in
    # sign.
    differences = np.random.default_rng(0).normal(size=(500, 2, 1)).repeat(200, axis=2)
    naive_intervals = [np.quantile(resampled_seeds(pair), [0.025, 0.975]) for pair in differences]
    assert np.mean([low <= 0 <= high for low, high in naive_intervals]) < 0.6
    corrected_intervals = [
        np.quantile(replicated_differences(pair), [0.025, 0.975]) for pair in differences
    ]
    assert np.mean([low <= 0 <= high for low, high in corrected_intervals]) > 0.9


@given(st.lists(st.none() | st.floats(0, 1), max_size=9), st.floats(0.001, 1))
def test_holm_matches_its_step_down_procedure(values: list[float | None], level: float) -> None:
    corrected = holm(values)
    present = sorted((v, i) for i, v in enumerate(values) if v is not None)
    rejected = set()
    for rank, (value, index) in enumerate(present):
        if value * (len(present) - rank) > level:
            break
        rejected.add(index)
    # Corrected values are capped at 1, so every hypothesis is rejected at level 1.
    rejected_by_correction = {
        i for i, value in enumerate(corrected) if value is not None and value <= level
    }
    assert rejected_by_correction == (rejected if level < 1 else {index for _, index in present})
    assert [value is None for value in corrected] == [value is None for value in values]
