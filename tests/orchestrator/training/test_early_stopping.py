"""Trials of a search that are stopped by their rank, tested without a cluster."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from orchestrator.study.config import EarlyStopping
from orchestrator.training.early_stopping import EarlierScores, TableSafeASHA
from pipelines.evaluation.config import EvaluationConfig

STOP, CONTINUE = TrialScheduler.STOP, TrialScheduler.CONTINUE


def job(name: str, epochs: int, ranked_among: str = "") -> Any:
    experiment = SimpleNamespace(
        evaluation=EvaluationConfig(metrics=("calibration_error",)),
    )
    task = SimpleNamespace(experiment=experiment)
    return SimpleNamespace(name=name, epochs=epochs, task=task, ranked_among=ranked_among)


class Search:
    """Trials that report in turn, one job each."""

    def __init__(
        self,
        *epochs: int,
        grace: int = 10,
        reduction: int = 3,
        metric: str = "miou",
        rows: str = "",
        earlier: Sequence[EarlierScores] = (),
    ) -> None:
        self.metric = metric
        groups = rows or " " * len(epochs)
        jobs = [job(str(i), epochs[i], group) for i, group in enumerate(groups)]
        self.scheduler = TableSafeASHA(EarlyStopping(grace, reduction, metric), jobs, earlier)
        self.trials: list[Any] = [
            SimpleNamespace(trial_id=str(index), config={"job": index})
            for index in range(len(jobs))
        ]
        for trial in self.trials:
            self.scheduler.on_trial_add(None, trial)

    def retry(self, index: int) -> None:
        """Replace a trial of Tune by another one of the same job."""
        self.trials[index] = SimpleNamespace(
            trial_id=f"{index}-again", config=self.trials[index].config
        )
        self.scheduler.on_trial_add(None, self.trials[index])

    def report(self, index: int, epoch: int, score: float) -> str:
        result = {"epoch": epoch, f"val/{self.metric}": score, "config/job": index}
        return self.scheduler.on_trial_result(None, self.trials[index], result)


@pytest.mark.parametrize("grace", [10, 30])  # both have a rung at 30
def test_no_trial_is_stopped_at_its_last_epoch(grace: int) -> None:
    search = Search(30, 30, grace=grace)
    for epoch in range(1, 31):
        assert search.report(0, epoch, 0.5) == CONTINUE
    assert search.report(1, 30, 0.1) == CONTINUE


def test_worse_trial_is_stopped_at_a_rung_before_its_end() -> None:
    search = Search(30, 30)
    assert search.report(0, 10, 0.5) == CONTINUE
    assert search.report(1, 10, 0.1) == STOP


@pytest.mark.parametrize(
    ("metric", "good", "bad"),
    [("dice", 0.5, 0.1), ("iou/road", 0.5, 0.1), ("calibration_error", 0.1, 0.5)],
)
def test_trials_are_ranked_by_the_metric_of_the_study(metric: str, good: float, bad: float) -> None:
    search = Search(30, 30, metric=metric)
    assert search.report(0, 10, good) == CONTINUE
    assert search.report(1, 10, bad) == STOP


def test_samples_are_ranked_within_their_row() -> None:
    search = Search(30, 30, 30, 30, rows="aabb")
    assert search.report(0, 10, 0.5) == CONTINUE
    assert search.report(2, 10, 0.2) == CONTINUE  # the first of its row
    assert search.report(3, 10, 0.1) == STOP
    assert search.report(1, 10, 0.4) == STOP  # better than all of the other row


@pytest.mark.parametrize("by", ["retry", "command"])
def test_resumed_trial_is_ranked_by_the_score_of_the_rungs_epoch(by: str) -> None:
    earlier = [(epoch, 0.02 * epoch) for epoch in range(1, 27)]
    known = [EarlierScores("0", " ", earlier), EarlierScores("stopped", " ", [(10, 0.1)])]
    search = Search(90, 90, earlier=known if by == "command" else ())
    if by == "retry":
        for epoch, score in earlier:
            assert search.report(0, epoch, score) == CONTINUE
        search.retry(0)
    assert search.report(0, 27, 0.54) == CONTINUE
    assert search.report(1, 10, 0.21) == CONTINUE  # the other one had 0.2 there
    assert search.report(1, 30, 0.5) == CONTINUE
    assert search.report(0, 30, 0.4) == STOP


def test_last_epoch_is_that_of_each_trial() -> None:
    search = Search(90, 30, 90)
    assert search.report(0, 30, 0.5) == CONTINUE
    assert search.report(1, 30, 0.1) == CONTINUE
    assert search.report(2, 30, 0.1) == STOP
