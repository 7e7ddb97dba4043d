"""The best sample of a search with known scores."""

from orchestrator.report.results import Result
from orchestrator.report.rows import build_rows
from orchestrator.report.search import TunedRow, best_rows, tuned_rows
from orchestrator.study.study import Trial
from orchestrator.study.trial_state import TrialState
from tests.support.known_results import known_result, study_of

# Calibration error and mIoU of three samples with two seeds; lower and higher is better.
ERRORS = {(0, 0): 0.3, (0, 1): 0.1, (1, 0): 0.4, (1, 1): 0.5, (2, 0): 0.05, (2, 1): 0.15}
MIOU = {(0, 0): 70.0, (0, 1): 71.0, (1, 0): 75.0, (1, 1): 73.0, (2, 0): 68.0, (2, 1): 69.0}


def tuned(metric: str, missing: tuple[int, int] | None = None) -> TunedRow:
    """Return the only row of a search by a metric; one training may be missing."""
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

    rows = build_rows(study, [result(trial) for trial in study.trials])
    (row,) = tuned_rows(study, rows)
    assert best_rows(study, rows) == [row.best]
    return row


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
