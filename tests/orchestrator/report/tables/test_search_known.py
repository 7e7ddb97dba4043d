"""The best sample of a search with known scores."""

import pytest

from orchestrator.report.documents.records import table_records
from orchestrator.report.rows.results import Result
from orchestrator.report.rows.row import Row, build_rows
from orchestrator.report.tables.columns import metric_columns
from orchestrator.report.tables.search import TunedRow, best_rows, tuned_rows
from orchestrator.study.study import Study, Trial
from orchestrator.study.trial_state import TrialState
from tests.support.known_results import known_result, study_of

# Calibration error and mIoU of three samples with two seeds; lower and higher is better.
ERRORS = {(0, 0): 0.3, (0, 1): 0.1, (1, 0): 0.4, (1, 1): 0.5, (2, 0): 0.05, (2, 1): 0.15}
MIOU = {(0, 0): 70.0, (0, 1): 71.0, (1, 0): 75.0, (1, 1): 73.0, (2, 0): 68.0, (2, 1): 69.0}


def searched(metric: str, missing: tuple[int, int] | None = None) -> tuple[Study, list[Row]]:
    """Return a search by a metric and its samples; one training may be missing."""
    study = study_of(
        kind="search",
        variants={"a": {"set": {"evaluation": {"metrics": ["calibration_error"]}}}},
        sample={"training.learning_rate": {"log": [0.001, 1]}},
        samples={"count": 3, "metric": metric},
        seeds=[0, 1],
    )

    def result(trial: Trial) -> Result:
        assert trial.sample is not None
        key = trial.sample.number, trial.experiment.seed
        if key == missing:
            return Result(trial, None, TrialState.MISSING)
        metrics = {"val/miou": MIOU[key] / 100, "val/calibration_error": ERRORS[key]}
        return known_result(trial, MIOU[key], metrics=metrics)

    return study, build_rows(study, [result(trial) for trial in study.trials])


def tuned(metric: str, missing: tuple[int, int] | None = None) -> TunedRow:
    """Return the only row of a search; see `searched`."""
    study, rows = searched(metric, missing)
    (row,) = tuned_rows(study, rows)
    assert best_rows(study, rows) == [row.best]
    return row


def test_scores_of_the_metric_are_in_the_table_of_all_samples_and_in_its_csv() -> None:
    study, rows = searched("calibration_error")
    columns = {each.key: each for each in metric_columns(study.config, rows, ())}
    assert list(columns)[:3] == ["miou", "calibration_error", "n"]
    column = columns["calibration_error"]
    assert [text.partition(" ")[0] for text in column.values] == ["20.0", "45.0", "10.0"]
    assert [line["calibration_error_mean"] for line in table_records(study, rows, ())] == [
        pytest.approx(value) for value in (20, 45, 10)
    ]
    study, rows = searched("miou")
    assert [each.key for each in metric_columns(study.config, rows, ())][:2] == ["miou", "n"]


def number(row: TunedRow) -> int:
    assert row.best is not None
    assert row.best.sample is not None
    return row.best.sample.number


def test_best_sample_has_the_highest_mean_over_seeds() -> None:
    row = tuned("miou")
    assert number(row) == 1
    assert row.scores == {0: 70.5, 1: 74.0, 2: 68.5}


def test_best_sample_by_a_metric_where_lower_is_better_has_the_lowest_mean() -> None:
    assert number(tuned("calibration_error")) == 2


def test_sample_without_all_of_its_seeds_is_not_the_best() -> None:
    row = tuned("miou", missing=(1, 1))
    assert number(row) == 0
    assert row.scores.keys() == {0, 2}
    assert row.tried == 2
