"""What Tune reports and when it stops trials, tested without a cluster."""

from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.training.events import (
    FAILURE,
    NOTICE,
    OUTCOME,
    EventCallback,
    EventChannel,
    RequestStopper,
)
from orchestrator.training.failures import Failure
from tests.support.jobs import cpu_job


def job(name: str, epochs: int) -> Any:
    return SimpleNamespace(name=name, epochs=epochs)


class Events:
    """The requests to a study."""

    def __init__(self, stop: bool = False, pause: bool = False, unwanted: bool = False) -> None:
        self.stop, self.pause, self.deleted = stop, pause, unwanted

    def stop_requested(self) -> bool:
        return self.stop

    def pause_requested(self) -> bool:
        return self.pause

    def unwanted(self, name: str) -> bool:
        return self.deleted


def stops(report: dict[str, Any], **requests: bool) -> bool:
    stopper = RequestStopper([job("a", 5)], EventChannel(Events(**requests)))  # type: ignore[arg-type]
    return stopper("id", {**report, "config": {"job": 0}})


@pytest.mark.parametrize("request_name", ["stop", "pause"])
def test_stop_request_ends_a_trial_at_any_report_but_the_last(request_name: str) -> None:
    assert not stops({"epoch": 4})
    assert stops({"epoch": 4}, **{request_name: True})
    assert stops({"checkpoint_score": -1.0}, **{request_name: True})  # within an epoch
    assert not stops({"epoch": 5}, **{request_name: True})
    assert not stops({OUTCOME: {}}, **{request_name: True})
    assert not stops({FAILURE: "no good"}, **{request_name: True})
    assert not stops({NOTICE: "damaged"}, **{request_name: True})


def test_deleted_trial_ends_at_any_report() -> None:
    assert stops({"epoch": 5}, unwanted=True)


class Log(Events):
    """Records the events of a study."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []

    def started(self, name: str) -> None:
        self.events.append("started")

    def interrupted(self, name: str) -> None:
        self.events.append("interrupted")

    def epoch(self, name: str, metrics: dict[str, Any]) -> None:
        self.events.append(f"epoch {metrics['epoch']}")

    def notice(self, name: str, message: str) -> None:
        self.events.append(f"notice: {message}")

    def checkpoint(self, name: str, metrics: dict[str, Any]) -> None:
        self.events.append(f"checkpoint after {metrics['seconds']} s")

    def failed(self, name: str, failure: Failure) -> None:
        self.events.append(f"failed: {failure.cause}")


def test_notices_and_reports_within_an_epoch_are_no_epochs() -> None:
    log = Log()
    callback = EventCallback([cpu_job()], EventChannel(log), lambda _: None)  # type: ignore[arg-type]
    trial: Any = SimpleNamespace(trial_id="0", config={"job": 0})
    reports: list[dict[str, Any]] = [
        {NOTICE: "damaged"},
        {"seconds": 3.5},
        {"seconds": 7.0, "epoch": 1},
    ]
    for report in reports:
        callback.on_trial_result(0, [], trial, report)
    assert log.events == ["notice: damaged", "checkpoint after 3.5 s", "epoch 1"]


def test_loss_of_an_earlier_trials_process_does_not_count_for_the_next_trial() -> None:
    log, retried = Log(), list[int]()
    job = cpu_job()
    callback = EventCallback([job], EventChannel(log), retried.append)  # type: ignore[arg-type]

    def attempt(number: int) -> Any:
        return SimpleNamespace(
            trial_id=str(number), config={"job": 0, "attempt": number}, pickled_error_file=None
        )

    def lose(trial: Any) -> None:
        callback._detectors[0]._nodes = lambda: [{"NodeID": "a"}]  # a single node is never lost
        callback.on_trial_error(0, [], trial)

    lose(attempt(0))  # before it has started
    assert (log.events, retried) == (["interrupted"], [0])
    second = attempt(1)
    callback.on_trial_start(0, [], second)
    lose(second)
    assert (log.events, retried) == (["interrupted", "started", "failed: lost worker"], [0])
