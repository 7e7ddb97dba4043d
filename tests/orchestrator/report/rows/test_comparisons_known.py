"""Comparisons of rows with known scores: what is pooled, tested and adjusted."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from orchestrator.report.rows import comparisons
from orchestrator.report.rows.comparisons import Comparisons, compare_rows, interaction_p
from orchestrator.report.rows.results import Result
from orchestrator.report.rows.row import Row, build_rows
from orchestrator.report.statistics.seed_spread import SeedError, seed_error
from orchestrator.report.statistics.significance import Difference, Pairs
from orchestrator.study.study import Study, Trial
from orchestrator.study.trial_state import TrialState
from tests.support.known_results import MANY, known_counts, known_result, study_of

A = [70.0, 70.6, 70.2]
B = [70.8, 71.2, 71.3]
C = [70.4, 70.5, 70.9]
A_16 = [72.0, 71.5, 71.9]
B_16 = [72.2, 72.1, 71.8]
C_16 = [73.2, 72.6, 73.4]


GRID = {"training.batch": [8, 16]}
CELLS = {8: {"a": A, "b": B, "c": C}, 16: {"a": A_16, "b": B_16, "c": C_16}}


def compared(study: Study, result: Callable[[Trial], Result]) -> Comparisons:
    return compare_rows(study, build_rows(study, [result(trial) for trial in study.trials]))


def seeds(*names: str, **keys: Any) -> Study:
    """Return a study of three seeds with the variants `names`."""
    variants = {name: {"set": {"training": {"epochs": 100 + i}}} for i, name in enumerate(names)}
    return study_of(variants=variants, seeds=[0, 1, 2], **keys)


def scored(scores: Mapping[str, list[float]], **run: Any) -> Callable[[Trial], Result]:
    """Return the results of trials by variant and seed."""
    return lambda trial: known_result(trial, scores[trial.variant][trial.experiment.seed], **run)


def in_cells(trial: Trial) -> Result:
    """Return the result of a trial of `GRID`; variant d has no scores yet."""
    if trial.variant == "d":
        return Result(trial, None, TrialState.MISSING)
    values = CELLS[trial.experiment.training.batch][trial.variant]
    return known_result(trial, values[trial.experiment.seed])


def differences(rows: list[Row]) -> dict[str, Difference]:
    return {row.variant: row.difference for row in rows if row.difference is not None}


def by_seed(values: list[float]) -> dict[int, float]:
    return dict(enumerate(values))


def assert_pooled(
    difference: Difference, row: list[float], base: list[float], *others: Any
) -> None:
    """Check that the spread is that of these rows and no others."""
    pairs = [a - b for a, b in zip(row, base, strict=True)]
    error = seed_error(by_seed(row), by_seed(base), [by_seed(each) for each in others], pairs)
    assert error is not None
    assert difference.method == error.method == "pooled"
    assert difference.standard_error == pytest.approx(error.standard_error)
    assert difference.freedom == pytest.approx(error.freedom)


def test_spread_is_pooled_over_the_other_rows_of_the_cell() -> None:
    rows = compared(seeds("a", "b", "c", grid=GRID), in_cells).rows
    found = {(row.variant, row.grid_cell): row.difference for row in rows if row.difference}
    assert_pooled(found["b", ("8",)], B, A, C)
    assert_pooled(found["c", ("16",)], C_16, A_16, B_16)


def sharing(scores: dict[str, list[float]], row: str, other: str) -> dict[str, Difference]:
    """Return the differences of a table of these scores, in which two rows have the same runs."""

    def result(trial: Trial) -> Result:
        run_id = trial.name.replace(f"{row},", f"{other},")
        return known_result(trial, scores[trial.variant][trial.experiment.seed], run_id=run_id)

    return differences(compared(seeds(*scores), result).rows)


def test_training_that_serves_two_rows_is_pooled_once() -> None:
    found = sharing({"a": A, "b": B, "c": C, "d": C}, "d", "c")
    assert_pooled(found["b"], B, A, C)
    assert_pooled(found["c"], C, A, B)
    assert_pooled(found["d"], C, A, B)


def test_training_that_also_serves_the_base_is_not_pooled_besides_it() -> None:
    found = sharing({"same": A, "a": A, "b": B, "c": C}, "same", "a")
    assert found.keys() == {"b", "c"}  # a training is not compared with itself
    assert_pooled(found["b"], B, A, C)


def test_rows_that_must_not_be_compared_are_not_pooled() -> None:
    scores = {"a": A, "b": B, "c": C, "other": [50.0, 90.0, 10.0]}

    def result(trial: Trial) -> Result:
        data = "another version" if trial.variant == "other" else "data"
        return scored(scores, data=data)(trial)

    rows = compared(seeds(*scores), result).rows
    assert rows[3].incomparable == "trained on different versions of the data set"
    assert_pooled(differences(rows)["b"], B, A, C)
    assert differences(rows).keys() == {"b", "c"}
    assert differences(rows)["b"].comparisons == 2


@pytest.mark.parametrize(("protocol", "comparable"), [(None, False), ("flipped", True)])
def test_rows_of_other_validations_are_compared_under_a_protocol(
    protocol: str | None, comparable: bool
) -> None:
    variants = {"a": {}, "b": {"set": {"evaluation": {"flip": True}}}}
    study = study_of(
        variants=variants,
        seeds=[0, 1, 2],
        protocols={"flipped": {"flip": True}},
        report={"protocol": protocol},
    )
    rows = compared(study, scored({"a": A, "b": B})).rows
    assert (rows[1].incomparable == "") == comparable


@pytest.mark.parametrize("separate", [False, True])
def test_folds_may_have_the_same_images_or_others(
    separate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(variants={"a": {}, "b": {"set": {"training": {"epochs": 9}}}}, folds=3)
    passed = []
    compare = comparisons.compare

    def spy(compared_to: str, pairs: Pairs) -> Difference:
        passed.append(pairs.separate_images)
        return compare(compared_to, pairs)

    def result(trial: Trial) -> Result:
        fold = trial.experiment.data.fold
        assert fold is not None
        miou = {"a": A, "b": B}[trial.variant][fold]
        images = (f"image {fold if separate else 0}",)
        return known_result(trial, miou, replace(known_counts(miou), identifiers=images))

    monkeypatch.setattr(comparisons, "compare", spy)
    compared(study, result)
    assert passed == [separate]


def test_row_that_lacks_a_cell_has_no_difference_over_all_cells() -> None:
    def result(trial: Trial) -> Result:
        lacking = trial.variant == "c" and trial.experiment.training.batch == 16
        return Result(trial, None, TrialState.MISSING) if lacking else in_cells(trial)

    found = compared(seeds("a", "b", "c", grid=GRID), result)
    assert [each.variant for each in found.overall] == ["b"]
    assert found.overall[0].by_cell == {
        ("8",): pytest.approx(np.mean(B) - np.mean(A)),
        ("16",): pytest.approx(np.mean(B_16) - np.mean(A_16)),
    }


def test_rows_scored_on_different_splits_are_not_compared() -> None:
    variants = {"a": {}, "b": {"set": {"data": {"validation_split": "train"}}}}
    study = study_of(variants=variants, seeds=[0, 1, 2])
    rows = compared(study, scored({"a": A, "b": B})).rows
    assert rows[1].incomparable == "scored on different splits"
    assert rows[1].difference is None


def test_difference_of_trainings_with_other_precision_is_mixed() -> None:
    def result(trial: Trial) -> Result:
        other = trial.name == "c, seed 1"
        return scored({"a": A, "b": B, "c": C}, precision="bf16" if other else "fp32")(trial)

    rows = compared(seeds("a", "b", "c"), result).rows
    assert [row.mixed_difference for row in rows] == [False, False, True]


def test_current_code_of_a_row_with_a_module_of_its_own_is_not_mixed() -> None:
    def result(trial: Trial) -> Result:
        found = scored({"a": A, "b": B, "c": C}, code=trial.variant)(trial)
        return replace(found, stale=trial.variant == "c")

    rows = compared(seeds("a", "b", "c"), result).rows
    assert [row.mixed_difference for row in rows] == [False, False, True]


def test_classes_that_are_predicted_without_labels_do_not_change_a_difference() -> None:
    """Their IoU of 0 is part of a trial's own score, but not of the classes all have in common."""
    scores = {"a": A, "b": B, "c": C}

    def result(trial: Trial) -> Result:
        miou = scores[trial.variant][trial.experiment.seed]
        if trial.name not in ("b, seed 1", "a, seed 2", "c, seed 0"):
            return known_result(trial, miou)
        return known_result(trial, miou / 2, known_counts(miou, predicted_only=True))

    found = differences(compared(seeds(*scores), result).rows)
    assert found["b"].mean == pytest.approx(np.mean(B) - np.mean(A))
    assert_pooled(found["b"], B, A, C)
    assert_pooled(found["c"], C, A, B)


@pytest.mark.parametrize("changed", [{"identifiers": ("another",)}, {"classes": ("road", "bus")}])
def test_scores_of_other_images_or_classes_have_no_p(changed: dict[str, Any]) -> None:
    def result(trial: Trial) -> Result:
        miou = {"a": A, "b": B}[trial.variant][trial.experiment.seed]
        counts = known_counts(miou)
        if trial.name == "b, seed 2":
            counts = replace(counts, **changed)
        return known_result(trial, miou, counts)

    (difference,) = differences(compared(seeds("a", "b"), result).rows).values()
    assert difference.mean == pytest.approx(np.mean(B) - np.mean(A))
    assert difference.interval is difference.p is None


@pytest.mark.parametrize(
    ("key", "values", "shared"),
    [
        ("evaluation.flip", [False, True], True),
        ("data.validation_split", ["val", "test"], True),
        ("training.batch", [8, 16], False),
    ],
)
def test_errors_of_the_same_trainings_in_several_cells_add_up(
    key: str, values: list[Any], shared: bool
) -> None:
    study = seeds("a", "b", grid={key: values})
    scores = {str(values[0]): {"a": A, "b": B}, str(values[1]): {"a": A_16, "b": B_16}}

    def result(trial: Trial) -> Result:
        (cell,) = map(str, trial.axes.values())
        return known_result(trial, scores[cell][trial.variant][trial.experiment.seed])

    (overall,) = compared(study, result).overall
    first = np.std(np.subtract(B, A), ddof=1) / math.sqrt(3)
    second = np.std(np.subtract(B_16, A_16), ddof=1) / math.sqrt(3)
    expected = first + second if shared else math.hypot(first, second)
    assert overall.difference.standard_error == pytest.approx(expected / 2)


def test_p_values_are_adjusted_for_all_planned_comparisons() -> None:
    """Three rows in two cells and their means over the cells; row d has no scores yet."""
    found = compared(seeds("a", "b", "c", "d", grid=GRID), in_cells)
    tested = [row.difference for row in found.rows if row.difference]
    tested += [each.difference for each in found.overall]
    ordered = sorted(tested, key=lambda each: each.p or 0.0)
    assert len(ordered) == 6
    highest = 0.0
    for rank, difference in enumerate(ordered):
        assert difference.p is not None
        highest = max(highest, min(1.0, (9 - rank) * difference.p))
        assert difference.p_adjusted == pytest.approx(highest)
        assert difference.comparisons == 9
    (b,) = (row.difference for row in found.rows if (row.variant, row.grid_cell) == ("b", ("8",)))
    assert b is not None
    assert b.p is not None
    assert b.p < 0.05 < (b.p_adjusted or 0)
    assert not b.significant


def test_interactions_are_tested_by_a_t_test_and_adjusted_among_themselves() -> None:
    found = compared(seeds("a", "b", "c", grid=GRID), in_cells)
    expected = {}
    for variant in ("b", "c"):
        first, second = (row.difference for row in found.rows if row.variant == variant)
        assert first is not None
        assert second is not None
        error = math.hypot(first.standard_error or 0, second.standard_error or 0)
        freedom = min(first.freedom or 0, second.freedom or 0)
        expected[variant] = 2 * stats.t.sf(abs(first.mean - second.mean) / error, freedom)
    low, high = sorted(expected, key=lambda name: expected[name])
    assert 2 * expected[low] < expected[high] < 1
    p = {each.variant: each.interaction_p for each in found.overall}
    assert p == pytest.approx({low: 2 * expected[low], high: expected[high]})


def normal_deviations(scale: float, shuffled_by: int | None = None) -> np.ndarray:
    """Return deviations with exactly the standard deviation `scale` (of a sample)."""
    values = stats.norm.ppf((np.arange(1000) + 0.5) / 1000)
    values *= scale / np.std(values, ddof=1)
    return values if shuffled_by is None else np.random.default_rng(shuffled_by).permutation(values)


def test_interaction_matches_the_test_of_the_linear_hypothesis() -> None:
    """Wald's F by deviations from the last cell, with the images' covariance between cells."""
    means = np.array([1.0, 1.8, 0.4])
    errors = [
        SeedError(0.3, 8, "pooled"),
        SeedError(0.5, 5, "pooled"),
        SeedError(0.2, 11, "pooled"),
    ]
    images = [normal_deviations(0.6), normal_deviations(0.4), normal_deviations(0.5, shuffled_by=1)]
    pairs = [
        Pairs({0: mean, 1: mean}, np.tile(mean + deviations, (2, 1)), MANY, error)
        for mean, error, deviations in zip(means, errors, images, strict=True)
    ]
    covariance = np.cov(images) + np.diag([0.3**2, 0.5**2, 0.2**2])
    contrast = np.array([[1.0, 0.0, -1.0], [0.0, 1.0, -1.0]])
    left = contrast @ means
    statistic = left @ np.linalg.inv(contrast @ covariance @ contrast.T) @ left / 2
    assert interaction_p(pairs) == pytest.approx(stats.f.sf(statistic, 2, 5), rel=1e-3)


def test_interaction_of_cells_without_any_variation_has_no_p() -> None:
    exact = Pairs({0: 1.0, 1: 1.0}, np.ones((2, 1000)), MANY, SeedError(0.0, 1, "own spread"))
    assert interaction_p([exact, exact]) is None
