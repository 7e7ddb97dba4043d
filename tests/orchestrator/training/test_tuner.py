"""Which trials Tune ends before their time, told without a cluster."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from orchestrator.study.config import EarlyStopping
from orchestrator.training.tuner import (
    FAILURE,
    OUTCOME,
    EventChannel,
    RequestStopper,
    TableSafeASHA,
)

STOP, CONTINUE = TrialScheduler.STOP, TrialScheduler.CONTINUE


def job(name: str, epochs: int) -> Any:
    training = SimpleNamespace(epochs=epochs)
    return SimpleNamespace(
        name=name, task=SimpleNamespace(experiment=SimpleNamespace(training=training))
    )


class Search:
    """Trials that report in turn, one job each."""

    def __init__(self, *epochs: int, grace: int = 10, reduction: int = 3) -> None:
        jobs = [job(str(index), each) for index, each in enumerate(epochs)]
        self.scheduler = TableSafeASHA(EarlyStopping(grace, reduction), jobs)
        self.trials: list[Any] = [
            SimpleNamespace(trial_id=str(index), config={"job": index})
            for index in range(len(jobs))
        ]
        for trial in self.trials:
            self.scheduler.on_trial_add(None, trial)

    def reports(self, index: int, epoch: int, miou: float) -> str:
        result = {"epoch": epoch, "val/miou": miou, "config/job": index}
        return self.scheduler.on_trial_result(None, self.trials[index], result)


@pytest.mark.parametrize("grace", [10, 30])  # both have a rung at 30
def test_no_trial_is_given_up_at_its_last_epoch(grace: int) -> None:
    search = Search(30, 30, grace=grace)
    for epoch in range(1, 31):
        assert search.reports(0, epoch, 0.5) == CONTINUE
    assert search.reports(1, 30, 0.1) == CONTINUE


def test_a_worse_one_is_given_up_at_a_rung_before_its_end() -> None:
    search = Search(30, 30)
    assert search.reports(0, 10, 0.5) == CONTINUE
    assert search.reports(1, 10, 0.1) == STOP


def test_the_last_epoch_is_the_trial_s_own() -> None:
    search = Search(90, 30, 90)
    assert search.reports(0, 30, 0.5) == CONTINUE
    assert search.reports(1, 30, 0.1) == CONTINUE
    assert search.reports(2, 30, 0.1) == STOP


class Events:
    """What is asked of the study."""

    def __init__(self, stop: bool = False, hold: bool = False, unwanted: bool = False) -> None:
        self.stop, self.hold, self.deleted = stop, hold, unwanted

    def stop_requested(self) -> bool:
        return self.stop

    def hold_requested(self) -> bool:
        return self.hold

    def unwanted(self, name: str) -> bool:
        return self.deleted


def ends(report: dict[str, Any], **asked: bool) -> bool:
    stopper = RequestStopper([job("a", 5)], EventChannel(Events(**asked)))  # type: ignore[arg-type]
    return stopper("id", {**report, "config": {"job": 0}})


@pytest.mark.parametrize("asked", ["stop", "hold"])
def test_on_request_a_trial_ends_at_a_report_but_the_last(asked: str) -> None:
    assert not ends({"epoch": 4})
    assert ends({"epoch": 4}, **{asked: True})
    assert ends({"checkpoint_score": -1.0}, **{asked: True})  # within an epoch
    assert not ends({"epoch": 5}, **{asked: True})
    assert not ends({OUTCOME: {}}, **{asked: True})
    assert not ends({FAILURE: "no good"}, **{asked: True})


def test_what_nobody_wants_ends_at_any_report() -> None:
    assert ends({"epoch": 5}, unwanted=True)
