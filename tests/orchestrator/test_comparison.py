"""Intervals, p values and power: brute force, scipy, tables, and simulated studies."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from orchestrator.report.bootstrap import group_sizes, resampled_miou
from orchestrator.report.power import power_of, seeds_needed, seeds_warning
from orchestrator.report.significance import compare, holm, replicated_differences
from pipelines.evaluation.counts import Counts, read_counts, write_counts
from pipelines.evaluation.scores import ImageCounts, Scores

CLASSES = ("road", "sky", "car")


def counts_of(values: NDArray[np.int64], groups: tuple[str | None, ...] | None = None) -> Counts:
    names = tuple(f"image {index}" for index in range(len(values)))
    return Counts(names, groups or ("one",) * len(values), CLASSES[: values.shape[1]], values)


def random_counts(seed: int, groups: tuple[str | None, ...]) -> Counts:
    """Images whose scores differ from group to group, one class of which is rare."""
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 60, (len(groups), 3, 3))
    values[:, 2] *= rng.random((len(groups), 1)) < 0.4
    levels = {name: 1 + index for index, name in enumerate(dict.fromkeys(groups))}
    values[:, :2, 0] *= np.array([levels[name] for name in groups])[:, None]
    return counts_of(values, groups)


def naive_miou(counts: NDArray[np.int64], images: list[int]) -> float:
    """By its definition, class by class and image by image."""
    values = []
    for index in range(counts.shape[1]):
        true, union = 0, 0
        for image in images:
            true += int(counts[image, index, 0])
            union += int(counts[image, index].sum())
        if union:
            values.append(true / union)
    return sum(values) / len(values)


def test_counts_are_read_back(tmp_path: Path) -> None:
    values = torch.arange(12).reshape(2, 2, 3)
    scores = Scores(torch.zeros(2, 2), ImageCounts(torch.tensor([0, 2]), values))
    path = tmp_path / "counts.arrow"
    write_counts(path, scores, ["a", "b", "c"], ["road", "sky"], ["x", "y", None])
    counts = read_counts(path)
    assert (counts.identifiers, counts.groups) == (("a", "c"), ("x", None))
    assert counts.classes == ("road", "sky")
    assert (counts.values == values.numpy()).all()
    assert counts.image_miou[1] == pytest.approx((6 / 21 + 9 / 30) / 2)
    assert counts.miou == pytest.approx((6 / 24 + 12 / 42) / 2)
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="no counts by image and class"):
        read_counts(path)


@pytest.mark.parametrize(
    "groups",
    [("one",) * 9, ("a",) * 4 + ("b",) * 3 + ("c",) * 2, (None,) * 9, (None, "a", "a", "a", "b")],
    ids=["one group", "three groups", "no groups", "some groups"],
)
def test_replicates_are_those_of_a_brute_force_bootstrap(groups: tuple[str | None, ...]) -> None:
    counts = random_counts(1, groups)
    places = [
        [index for index, other in enumerate(groups) if other == group]
        for group in dict.fromkeys(groups)
        if group is not None
    ]
    places += [[index] for index, group in enumerate(groups) if group is None]
    rng = np.random.default_rng(7)
    brute = []
    for _ in range(4000):
        images = []
        for _ in places:
            group = places[rng.integers(len(places))]
            images += [group[rng.integers(len(group))] for _ in group]
        brute.append(naive_miou(counts.values, images))
    (ours,) = resampled_miou([counts], 20_000)
    assert counts.miou == pytest.approx(naive_miou(counts.values, list(range(len(groups)))))
    # Four standard errors of what 4000 replicates can say.
    assert ours.mean() == pytest.approx(np.mean(brute), abs=4 * np.std(brute) / math.sqrt(4000))
    assert ours.std() == pytest.approx(np.std(brute), rel=0.06)
    assert stats.ks_2samp(ours, brute).statistic < 0.05


def test_images_without_labels_say_nothing() -> None:
    """A replicate of such images alone has no mIoU; the others must not suffer from it."""
    groups = ("a", "a", "b", None, "c")
    labelled = random_counts(0, groups)
    values = labelled.values.copy()
    values[[1, 2, 4]] = 0
    (drawn,) = resampled_miou([counts_of(values, groups)], 1000)
    assert np.isfinite(drawn).all()
    assert drawn.min() == pytest.approx(min(naive_miou(values, [i]) for i in (0, 3)))


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


@pytest.mark.parametrize(
    ("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10), (1.5, 6), (2.0, 5)]
)
def test_seeds_needed_are_those_of_the_tables(effect: float, seeds: int) -> None:
    """Paired t-test, two-sided 5 %, power 80 %: as in Cohen's tables and common calculators."""
    assert seeds_needed(effect, 1.0) == seeds
    assert seeds_needed(3 * effect, 3.0) == seeds


def test_power_is_what_simulated_tests_show() -> None:
    samples = np.random.default_rng(0).normal(1.0, 1.2, (20_000, 6))
    rejected = stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05
    assert power_of(6, 1.0, 1.2) == pytest.approx(rejected.mean(), abs=0.015)
    assert power_of(1, 1.0, 1.2) == 0
    assert power_of(6, 100.0, 0.01) == 1
    assert seeds_needed(1e-6, 1.0) is None


def test_too_few_seeds_are_told() -> None:
    told = seeds_warning(1, 1.5, None)
    assert told is not None
    assert "1 seed is too few to detect the expected difference of 1.5 points; 4 are" in told
    assert "assumed" in told
    assert seeds_warning(4, 1.5, None) is None
    measured = seeds_warning(3, 1.5, 1.5)
    assert measured is not None
    assert "10 are needed" in measured
    assert "deviation of the differences 1.50, measured" in measured
