"""The text of the cells of a report's tables."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from orchestrator.report.rows.results import Result
from orchestrator.report.rows.row import Row, build_rows
from orchestrator.report.statistics.significance import Difference
from orchestrator.report.tables.cells import (
    difference_text,
    gflops_text,
    hours_text,
    row_difference,
    seeds_text,
    significant_text,
    unscored,
)
from orchestrator.study.trial_state import TrialState
from tests.support.known_results import known_result, study_of


def row_of(states: Sequence[TrialState | None]) -> Row:
    """Return a row with a trial in each of these states; None for one with a score."""
    study = study_of(variants={"a": {}}, seeds=list(range(len(states))))
    results = [
        known_result(trial, 70.0) if state is None else Result(trial, None, state)
        for trial, state in zip(study.trials, states, strict=True)
    ]
    (row,) = build_rows(study, results)
    return row


@pytest.mark.parametrize(
    ("states", "seeds", "others"),
    [
        ((None, None), "2", ""),
        ((None, TrialState.FAILED), "1 of 2", "1 failed"),
        ((TrialState.FAILED, TrialState.FAILED), "0 of 2", "failed"),
        ((TrialState.FAILED, TrialState.MISSING), "0 of 2", "1 failed, 1 missing"),
        # Without a validation split.
        ((TrialState.FINISHED, TrialState.FAILED), "0 of 2", "failed"),
    ],
)
def test_seeds_without_a_score(
    states: tuple[TrialState | None, ...], seeds: str, others: str
) -> None:
    row = row_of(states)
    assert (seeds_text(row), unscored(row)) == (seeds, others)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "-"),
        ([0.0], "0"),
        ([123.4, 125.6], "124 ± 2"),
        ([12.34], "12.3"),
        ([0.01234, 0.01236], "0.0123 ± 0.0000"),
    ],
)
def test_mean_has_three_significant_digits(values: list[float], text: str) -> None:
    assert significant_text(values) == text


@pytest.mark.parametrize(
    ("interval", "images", "text"),
    [
        ((-0.5, 2.5), None, "+1.00 [-0.50, +2.50]"),
        (None, (0.25, 1.75), "+1.00 (images\u00a0±0.75)"),
        ((-0.001, 2.0), (0.25, 1.75), "+1.00 [0.00, +2.00]"),  # zero has no sign
        (None, None, "+1.00"),
    ],
)
def test_difference_has_its_interval_or_half_the_width_of_that_over_images(
    interval: tuple[float, float] | None, images: tuple[float, float] | None, text: str
) -> None:
    difference = Difference("a", 1.0, {0: 1.0}, interval=interval, image_interval=images)
    assert difference_text(difference) == text


def test_difference_that_is_not_of_equal_trainings_is_marked() -> None:
    row, difference = row_of([None, None]), Difference("a", 1.0, {0: 1.0})
    assert row_difference(row, difference) == "+1.00"
    assert row_difference(replace(row, mixed_difference=True), difference) == "+1.00\u00a0†"
    assert row_difference(replace(row, incomparable="another split"), difference) == "‡"
    assert row_difference(row, None) == "-"


@pytest.mark.parametrize(
    ("value", "hours", "gflops"),
    [
        (123.46, "123.5", "123.5"),
        (0.876, "0.88", "0.88"),
        (0.0123, "0.012", "0.012"),
        (None, "-", "-"),
    ],
)
def test_small_costs_have_two_significant_digits(
    value: float | None, hours: str, gflops: str
) -> None:
    assert (hours_text(value), gflops_text(value)) == (hours, gflops)
