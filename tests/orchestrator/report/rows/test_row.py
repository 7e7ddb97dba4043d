"""Rows of results with known scores: what counts, and the published differences."""

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.report.rows.row import Row, build_rows, expected_difference
from orchestrator.study.trial_state import TrialState
from tests.support.known_results import known_result, study_of

MIOU = {"a": 77, "b": 78.5, "c": 76.2}
PUBLISHED = {name: {"reference": {"miou": miou}} for name, miou in MIOU.items()}


def rows_of(**keys: Any) -> tuple[list[Row], Any]:
    study = study_of(variants=PUBLISHED, **keys)
    return build_rows(study, [known_result(trial, 70.0) for trial in study.trials]), study


def test_study_should_detect_the_smallest_published_difference() -> None:
    rows, study = rows_of()
    assert [row.published_difference for row in rows] == [None, 1.5, pytest.approx(-0.8)]
    assert expected_difference(study, rows)[0] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("dataset", "elsewhere"), [("streets", False), ("/streets", False), ("roads", True)]
)
@pytest.mark.parametrize("location", ["/data/streets", "/data/streets/", "streets/"])
def test_published_values_of_another_setting_are_not_expected(
    location: str, dataset: str, elsewhere: bool
) -> None:
    if dataset == "/streets":
        dataset = location
    setting = {"published_setting": {"data.dataset": dataset}}
    rows, study = rows_of(base={"data": {"dataset": location}}, report=setting)
    assert [row.published_elsewhere for row in rows] == [elsewhere] * 3
    assert (expected_difference(study, rows)[0] is None) == elsewhere


def test_hours_and_code_are_those_of_the_trials_with_a_score() -> None:
    study = study_of(variants={"a": {}}, seeds=[0, 1, 2])
    results = [
        known_result(trial, 70.0, metrics={"val/miou": 0.7, "trial/seconds": 3600.0 * hours})
        for trial, hours in zip(study.trials, (2, 4, 30), strict=True)
    ]
    results[2] = replace(results[2], miou=None, state=TrialState.NOT_SCORED, stale=True)
    (row,) = build_rows(study, results)
    assert row.hours == 3
    assert not row.stale
    results[1] = replace(results[1], stale=True)
    (row,) = build_rows(study, results)
    assert row.stale
