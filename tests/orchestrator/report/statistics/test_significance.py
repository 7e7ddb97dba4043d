"""Intervals and p values of differences against scipy and closed forms."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import linalg, stats

from orchestrator.report.statistics.bootstrap import Sampling, sampling_of
from orchestrator.report.statistics.seed_spread import SeedError, seed_error
from orchestrator.report.statistics.significance import (
    Difference,
    Pairs,
    compare,
    compare_means,
    holm,
    image_distribution,
)
from tests.support.fabricated_counts import naive_miou, random_counts, resampled_miou

MANY = Sampling("images", 10_000, 9_999)


def paired(values: list[float], image_deviation: float, error: SeedError | None) -> Pairs:
    """Return pairs with normal variation over images, the same for all seeds."""
    quantiles = stats.norm.ppf((np.arange(10_000) + 0.5) / 10_000)
    replicates = np.array(values)[:, None] + image_deviation * quantiles
    return Pairs(dict(enumerate(values)), replicates, MANY, error)


def own_error(values: list[float]) -> SeedError | None:
    rows = dict(enumerate(values)), dict.fromkeys(range(len(values)), 0.0)
    return seed_error(*rows, [], values)


@pytest.mark.slow
def test_one_seed_has_an_interval_over_images_and_no_test() -> None:
    """The interval matches scipy's paired bootstrap, stretched for few images."""
    ours, base = (random_counts(seed, ("one",) * 30) for seed in (1, 2))

    def statistic(images: NDArray[np.int64]) -> float:
        chosen = [int(image) for image in images]
        return naive_miou(ours.values, chosen) - naive_miou(base.values, chosen)

    reference = stats.bootstrap(
        (np.arange(30),),
        statistic,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    row, other = resampled_miou([ours, base])
    by_seed = {0: ours.miou - base.miou}
    difference = compare("b", Pairs(by_seed, (row - other)[None], sampling_of(ours), None))
    assert difference.method == "images only"
    assert difference.interval is difference.p is difference.spread is difference.detectable is None
    assert not difference.significant
    assert difference.image_interval is not None
    stretch = np.sqrt(30 / 29) * stats.t.ppf(0.975, 29) / stats.norm.ppf(0.975)
    expected = [difference.mean + stretch * (limit - np.mean(row - other)) for limit in reference]
    width = expected[1] - expected[0]
    assert difference.image_interval == pytest.approx(expected, abs=0.06 * width)


def test_seeds_without_variation_over_images_match_the_t_test() -> None:
    values = [1.0, 2.5, 0.5, 1.5, 3.0]
    difference = compare("b", paired(values, 0.0, own_error(values)))
    reference = stats.ttest_1samp(values, 0)
    assert difference.method == "own spread"
    assert difference.spread == pytest.approx(np.std(values, ddof=1))
    assert difference.p == pytest.approx(reference.pvalue, rel=1e-9)
    assert difference.interval == pytest.approx(tuple(reference.confidence_interval(0.95)))
    # The detectable difference has a power of 80 % at the level of 5 %.
    assert difference.detectable is not None
    shift = difference.detectable / difference.spread * np.sqrt(5)
    power = stats.nct.sf(stats.t.isf(0.025, 4), 4, shift)
    assert power == pytest.approx(0.8, abs=0.03)


def test_mixture_matches_random_draws() -> None:
    """The distribution is that of an image replicate plus a scaled t draw."""
    values = [1.0, 2.5, 0.5]
    error = own_error(values)
    assert error is not None
    difference = compare("b", paired(values, 0.8, error))
    rng = np.random.default_rng(0)
    draws = rng.standard_t(2, 400_000) * error.standard_error + rng.normal(0, 0.8, 400_000)
    draws += difference.mean
    assert difference.interval == pytest.approx(np.quantile(draws, [0.025, 0.975]), rel=0.02)
    assert difference.p == pytest.approx(2 * (draws < 0).mean(), rel=0.02)


def test_p_has_no_smallest_value() -> None:
    values = [5.0, 5.01, 4.99, 5.005, 4.995, 5.0]
    difference = compare("b", paired(values, 0.01, own_error(values)))
    assert difference.p is not None
    assert 0 < difference.p < 1e-8


def test_variation_that_differs_by_seed_is_counted_once() -> None:
    """If seeds differ only image by image, their spread already contains all of it."""
    rng = np.random.default_rng(1)
    values = [0.3, -0.2, 0.1, 0.4, -0.1, 0.0]
    replicates = np.array(values)[:, None] + rng.normal(0, 0.5, (6, 10_000))
    independent = compare("b", Pairs(dict(enumerate(values)), replicates, MANY, own_error(values)))
    alone = compare("b", paired(values, 0.0, own_error(values)))
    assert independent.interval == pytest.approx(alone.interval, abs=0.02)


def test_two_seeds_are_tested_only_if_their_spread_is_pooled() -> None:
    values = [1.0, 1.2]
    assert compare("b", paired(values, 0.1, SeedError(0.1, 5, "pooled"))).p is not None
    alone = compare("b", paired(values, 0.1, own_error(values)))
    assert alone.interval is not None
    assert alone.p is None


def test_equal_rows_have_no_difference() -> None:
    difference = compare("b", paired([0.0, 0.0, 0.0], 0.0, own_error([0.0, 0.0, 0.0])))
    assert (difference.mean, difference.interval, difference.p) == (0.0, (0.0, 0.0), 1.0)


def test_difference_without_counts_has_no_interval() -> None:
    difference = compare("b", Pairs({1: 2.0}, None, None, None))
    assert difference == Difference("b", 2.0, {1: 2.0})
    assert (difference.seeds, difference.deviation) == ((1,), None)


def test_mean_over_cells_has_the_variance_of_a_mean() -> None:
    """Seeds of different cells are independent; the same images vary together."""
    error = SeedError(0.6, 40, "pooled")
    cells = [paired([1.0, 2.0, 3.0], 0.3, error), paired([2.0, 3.0, 4.0], 0.3, error)]
    overall = compare_means("b", cells, shared_trainings=False)
    assert overall.mean == pytest.approx(2.5)
    assert overall.by_seed == {0: 1.5, 1: 2.5, 2: 3.5}
    expected = np.hypot(0.6 / np.sqrt(2), 0.3)
    assert overall.standard_error == pytest.approx(expected, rel=0.01)
    assert overall.interval is not None
    width = overall.interval[1] - overall.interval[0]
    assert width == pytest.approx(2 * 1.985 * expected, rel=0.02)


def test_mean_over_ways_to_score_the_same_trainings_says_no_more_than_one_of_them() -> None:
    cell = paired([1.0, 2.0, 3.0], 0.3, SeedError(0.6, 40, "pooled"))
    overall = compare_means("b", [cell, cell], shared_trainings=True)
    alone = compare("b", cell)
    assert overall.standard_error == pytest.approx(alone.standard_error)
    assert overall.p == pytest.approx(alone.p)


def test_few_images_in_one_cell_limit_the_degrees_of_freedom_of_the_mean() -> None:
    """Welch-Satterthwaite of the seeds' error and that of the cell with the fewest images."""
    error = SeedError(0.6, 40, "pooled")
    cells = [
        replace(
            paired([1.0, 2.0, 3.0], 0.3, error), sampling=Sampling("images", images, images - 1)
        )
        for images in (50, 10_000)
    ]
    centers = [cell.centers() for cell in cells]
    overall = compare_means("b", cells, shared_trainings=True), np.mean(centers, axis=0)
    for difference, images in (overall, (compare("b", cells[0]), centers[0])):
        total = 0.6**2 + images.var()
        expected = total**2 / (0.6**4 / 40 + images.var() ** 2 / 49)
        assert difference.freedom == pytest.approx(expected)


def test_folds_on_images_of_their_own_add_no_variation_over_images() -> None:
    """Their spread contains it. In all cells, the folds have the same images, so errors add up."""
    error = SeedError(0.6, 4, "own spread")
    values = {(0, fold): value for fold, value in enumerate([1.0, 2.0, 3.0, 1.5, 2.5])}
    replicates = np.array([*values.values()])[:, None] + np.linspace(-9, 9, 1000)
    cell = Pairs(values, replicates, MANY, error, folds=5, separate_images=True)
    alone = compare("b", cell)
    assert alone.standard_error == pytest.approx(0.6)
    assert alone.p == pytest.approx(2 * stats.t.sf(2.0 / 0.6, 4))
    overall = compare_means("b", [cell, cell], shared_trainings=False)
    assert overall.p == pytest.approx(alone.p)


def test_images_deviate_as_students_t_beyond_the_bootstrap() -> None:
    """Deviations of more than four standard errors are stretched as those of four are."""
    deviations = np.array([0.5, -0.5, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0] * 20 + [9.0, -9.0])
    replicates = 7.0 + deviations
    sampling = Sampling("images", 10, 9)
    scores = deviations / deviations.std()
    assert abs(scores).max() > 4
    limited = scores.clip(-4, 4)
    stretch = stats.t.ppf(stats.norm.cdf(limited), 9) / limited
    expected = 1.5 + np.sqrt(10 / 9) * stretch * deviations
    assert image_distribution(1.5, replicates[None], sampling) == pytest.approx(expected)


def test_only_variation_over_images_that_seeds_share_is_kept() -> None:
    """Three seeds with variation of their own, orthogonal to each other and to the shared one."""
    shared, *own = linalg.hadamard(8)[1:5]
    replicates = 0.6 * shared + 1.2 * np.array(own)
    distribution = image_distribution(2.0, replicates, MANY)
    assert distribution.std() == pytest.approx(0.6, rel=1e-3)


@given(st.integers(1, 40), st.floats(0.01, 5), st.integers(2, 200))
def test_detectable_difference_grows_with_the_number_of_comparisons(
    comparisons: int, error: float, freedom: int
) -> None:
    difference = Difference(
        "b", 1.0, {0: 1.0}, comparisons=comparisons, standard_error=error, freedom=freedom
    )
    multiple = stats.t.isf(0.025 / comparisons, freedom) + stats.t.isf(0.2, freedom)
    assert difference.detectable == pytest.approx(error * multiple)


def test_only_an_adjusted_p_below_five_percent_is_significant() -> None:
    assert not Difference("b", 1.0, {0: 1.0}, p=0.02, p_adjusted=0.06).significant
    assert not Difference("b", 1.0, {0: 1.0}, p=0.02, p_adjusted=0.05).significant
    assert not Difference("b", 1.0, {0: 1.0}, p=0.02).significant
    assert Difference("b", 1.0, {0: 1.0}, p=0.02, p_adjusted=0.04).significant


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
