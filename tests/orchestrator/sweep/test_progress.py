"""What the terminal shows while a study trains: times left, and why trials wait."""

import io
import time

import pytest
from rich.console import Console

from orchestrator.study.trial_state import TrialState
from orchestrator.sweep.progress import StudyProgress, TrialProgress


class Clock:
    """The time that the progress sees."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(time, "time", lambda: self.now)


def test_time_left_does_not_count_the_start_as_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four trials of 60 s for starting and 10 epochs of 5 s, two at a time."""
    clock = Clock(monkeypatch)
    names = ["a", "b", "c", "d"]
    progress = StudyProgress.of(Console(), [TrialProgress(name, 10) for name in names])

    def left() -> str:
        return progress._time_left()

    for name in "ab":
        progress.started(name)
    assert left() == ""
    clock.now += 60
    for epoch in range(1, 11):
        clock.now += 5
        for name in "ab":
            progress.epoch(name, epoch, {"train/loss": 1.0})
        if epoch == 2:
            assert left() == ", about 2:30 left"  # 40 s, then 110 s
            assert progress.trials["a"].seconds_left(clock.now) == 40
            clock.now += 2
            assert left() == ", about 2:28 left"
            clock.now -= 2
    for name in "ab":
        progress.ended(name, TrialState.FINISHED)
    assert left() == ", about 1:50 left"
    for name in "cd":
        progress.started(name)
    clock.now += 30
    assert left() == ", about 1:20 left"
    for name in "cd":
        progress.ended(name, TrialState.FAILED, "error")
    assert left() == ""


def test_time_left_knows_a_shorter_last_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    progress = StudyProgress.of(Console(), [TrialProgress("a", 4, last_epoch=0.2)])
    progress.started("a")
    for epoch in (1, 2):
        clock.now += 5
        progress.epoch("a", epoch, {"train/loss": 1.0})
    assert progress.trials["a"].seconds_left(clock.now) == pytest.approx(5 + 1)


def test_narrow_terminal_shortens_the_names_only() -> None:
    names = [f"a variant with a long name, seed {seed}" for seed in (0, 1)]
    progress = StudyProgress.of(Console(), [TrialProgress(name, 100) for name in names])
    for name in names:
        progress.started(name)
    progress.epoch(names[0], 10, {"train/loss": 1.234, "val/miou": 0.456})
    with (screen := Console(width=60, file=io.StringIO())).capture() as shown:
        screen.print(progress._table())
    _, first, second, summary, *_ = shown.get().splitlines()
    assert "…" in first
    assert first.split()[-5:] == ["10/100", "1.234", "45.6", "0:00", "training"]
    assert second.split()[-2:] == ["0/100", "starting"]
    assert summary.startswith("0 of 2 trials finished, 1 training, 1 starting;")


def test_trial_that_lost_its_workers_waits_and_reports_refused_machines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    output = io.StringIO()
    progress = StudyProgress.of(Console(file=output, width=200), [TrialProgress("a", 10)])
    trial = progress.trials["a"]

    def train(*epochs: int) -> None:
        for epoch in epochs:
            clock.now += 5
            progress.epoch("a", epoch, {"train/loss": 1.0})

    progress.started("a")
    train(1, 2, 3)
    progress.refused("no capacity")
    assert "refused" not in output.getvalue()
    progress.interrupted("a")
    assert trial.state is TrialState.WAITING
    assert "a: waiting: it lost its workers" in output.getvalue()
    progress.refused("no capacity")
    assert "trials wait for machines that were refused: no capacity" in output.getvalue()
    clock.now += 3600
    train(4)
    assert trial.state.value == "training"
    assert trial.seconds_left(clock.now) is None
    train(5)
    assert trial.seconds_left(clock.now) == 25  # without the wait
