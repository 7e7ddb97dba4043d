"""Intervals and p values against scipy, tables and simulated studies."""

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


def test_one_seed_is_the_paired_bootstrap_of_scipy() -> None:
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
    found = compare({0: ours.miou}, {0: base.miou}, {0: row}, {0: other})
    assert found is not None
    assert found.interval is not None
    width = reference.high - reference.low
    assert found.interval == pytest.approx((reference.low, reference.high), abs=0.06 * width)
    assert found.deviation is None
    assert found.t_test is None


def test_seeds_alone_are_the_paired_t_test_of_scipy() -> None:
    """Where the images add nothing, five seeds are what the t-test has."""
    row = {seed: 70 + value for seed, value in enumerate([1.0, 2.5, 0.5, 1.5, 3.0])}
    base = {seed: 69 + 0.3 * seed for seed in range(6)}
    same = {seed: np.full(20_000, value) for seed, value in (base | row).items()}
    flat = {seed: np.full(20_000, value) for seed, value in base.items()}
    found = compare(row, base, same, flat)
    reference = stats.ttest_rel(list(row.values()), list(base.values())[:5])
    assert found is not None
    assert found.seeds == (0, 1, 2, 3, 4)
    assert found.t_test == reference.pvalue
    assert found.p == pytest.approx(reference.pvalue, abs=0.01)
    expected = reference.confidence_interval(0.95)
    assert found.interval == pytest.approx((expected.low, expected.high), abs=0.1)


def test_equal_rows_differ_by_nothing() -> None:
    counts = random_counts(3, ("a",) * 5 + ("b",) * 5)
    first, second = resampled_miou([counts, counts])
    assert (first == second).all()
    found = compare({0: 1.0}, {0: 1.0}, {0: first}, {0: second})
    assert found is not None
    assert (found.mean, found.interval, found.p) == (0.0, (0.0, 0.0), 1.0)
    assert group_sizes(counts) == {"a": 5, "b": 5}


def test_what_cannot_be_resampled_has_a_difference_without_interval() -> None:
    found = compare({0: 71.0, 1: 72.0}, {1: 70.0}, {0: np.zeros(9)}, {1: np.zeros(9)})
    assert found is not None
    assert (found.mean, found.seeds, found.interval, found.p) == (2.0, (1,), None, None)
    assert compare({0: 71.0}, {1: 70.0}, {}, {}) is None
    with pytest.raises(ValueError, match="same images"):
        resampled_miou([random_counts(0, ("a",) * 3), random_counts(0, ("a",) * 4)])


def resampled_seeds(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """What `replicated_differences` does not do: the seeds themselves drawn with replacement."""
    count, replicates = differences.shape
    drawn = np.random.default_rng(0).integers(count, size=(count, replicates))
    return np.take_along_axis(differences, drawn, axis=0).mean(axis=0)


def covered(
    seeds: int, method: Callable[[NDArray[np.float64]], NDArray[np.float64]], studies: int = 300
) -> float:
    """Share of simulated studies of two equally good rows whose interval holds 0.

    Pictures differ in how hard they are, in how much each row likes them and, by seed, in luck;
    trainings differ as a whole.
    """
    rng = np.random.default_rng(11)
    holds = 0
    for _ in range(studies):
        images, pixels = 40, 400
        hard = rng.normal(1.2, 0.6, images)
        scored = []
        for _ in range(2):
            liked = rng.normal(0, 0.3, images)
            for _ in range(seeds):
                level = hard + liked + rng.normal(0, 0.1) + rng.normal(0, 0.1, images)
                right = rng.binomial(pixels, 1 / (1 + np.exp(-level[:, None].repeat(2, 1))))
                wrong = pixels - right
                scored.append(counts_of(np.stack([right, wrong[:, ::-1], wrong], axis=-1)))
        resampled = resampled_miou(scored, 1000)
        replicates = method(np.stack(resampled[:seeds]) - np.stack(resampled[seeds:]))
        low, high = np.quantile(replicates, [0.025, 0.975])
        holds += bool(low <= 0 <= high)
    return holds / studies


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_cover_what_they_say(seeds: int) -> None:
    # 300 studies know a coverage of 0.95 to 0.0126; intervals may be too wide, hardly too narrow.
    assert covered(seeds, replicated_differences) > 0.95 - 3 * 0.0126


@pytest.mark.slow
def test_resampling_two_seeds_would_cover_too_little() -> None:
    assert covered(2, resampled_seeds) < covered(2, replicated_differences)
    # Without a spread over images nothing is left to cover for it: half of all pairs agree in sign.
    differences = np.random.default_rng(0).normal(size=(500, 2, 1)).repeat(200, axis=2)
    naive = [np.quantile(resampled_seeds(pair), [0.025, 0.975]) for pair in differences]
    assert np.mean([low <= 0 <= high for low, high in naive]) < 0.6
    honest = [np.quantile(replicated_differences(pair), [0.025, 0.975]) for pair in differences]
    assert np.mean([low <= 0 <= high for low, high in honest]) > 0.9


@given(st.lists(st.none() | st.floats(0, 1), max_size=9), st.floats(0.001, 1))
def test_holm_rejects_what_its_step_down_procedure_rejects(
    values: list[float | None], level: float
) -> None:
    corrected = holm(values)
    present = sorted((v, i) for i, v in enumerate(values) if v is not None)
    rejected = set()
    for rank, (value, index) in enumerate(present):
        if value * (len(present) - rank) > level:
            break
        rejected.add(index)
    # 1 is where correction ends, and every procedure at level 1 rejects there.
    found = {i for i, value in enumerate(corrected) if value is not None and value <= level}
    assert found == (rejected if level < 1 else {index for _, index in present})
    assert [value is None for value in corrected] == [value is None for value in values]
