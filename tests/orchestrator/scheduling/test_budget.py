"""Limits of a study: when they stop it, and the reasons they report."""

import pytest

from orchestrator.scheduling.budget import Budget, recorded_hours
from orchestrator.study.config import Limits


class Clock:
    """A clock that a test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def budget(clock: Clock, devices: float = 1.0, spent: float = 0.0, **limits: float) -> Budget:
    return Budget(Limits(**limits), devices, spent, clock)  # type: ignore[arg-type]


def test_study_without_limits_is_never_stopped() -> None:
    clock = Clock()
    unlimited = budget(clock)
    unlimited.started("a")
    clock.now += 1e9
    unlimited.ended("a", failed=True)
    assert unlimited.pause_reason() is None
    assert unlimited.may_start()
    assert unlimited.left_out_reason() is None


def test_gpu_hours_include_every_device_of_running_and_ended_trials() -> None:
    clock = Clock()
    limited = budget(clock, devices=4, gpu_hours=10)
    limited.started("a")
    clock.now += 3600
    limited.ended("a")
    clock.now += 3600  # no trial runs
    limited.started("b")
    assert limited.device_hours == pytest.approx(4)
    clock.now += 3600 * 1.4
    assert limited.pause_reason() is None
    clock.now += 3600 * 0.2
    assert "this study has used 10.4 of 10 GPU-hours" in str(limited.pause_reason())
    assert not limited.may_start()


def test_gpu_hours_leave_out_the_wait_for_machines() -> None:
    clock = Clock()
    limited = budget(clock, devices=4, gpu_hours=10)
    limited.started("a", waits=True)
    clock.now += 9 * 3600
    assert limited.device_hours == 0
    clock.now += 3600
    limited.worked("a", 4, seconds=1800)  # half an hour of its first report was training
    assert limited.device_hours == pytest.approx(2)
    clock.now += 900
    limited.interrupted("a")  # it lost a machine
    clock.now += 5 * 3600
    assert limited.device_hours == pytest.approx(3)
    limited.worked("a", 4, seconds=900)
    clock.now += 900
    limited.ended("a")
    clock.now += 3600
    limited.worked("a", 4, seconds=60)  # a late report
    clock.now += 3600
    assert limited.device_hours == pytest.approx(5)


def test_gpu_hours_follow_the_current_number_of_workers() -> None:
    clock = Clock()
    limited = budget(clock, devices=1, gpu_hours=100)
    limited.started("a")
    clock.now += 3600
    limited.worked("a", 8)  # it started with all idle workers
    assert limited.device_hours == pytest.approx(8)
    clock.now += 1800
    assert limited.device_hours == pytest.approx(12)
    clock.now += 1800
    limited.worked("a", 4)  # it lost a machine
    assert limited.device_hours == pytest.approx(12)
    clock.now += 3600
    limited.ended("a")
    limited.worked("a", 8)
    clock.now += 3600
    assert limited.device_hours == pytest.approx(16)


def test_gpu_hours_of_earlier_commands_are_included() -> None:
    assert budget(Clock(), spent=10.0, gpu_hours=10).pause_reason() is not None


def test_wall_hours_start_with_the_command() -> None:
    clock = Clock()
    limited = budget(clock, wall_hours=2)
    clock.now += 7199
    assert limited.may_start()
    clock.now += 1
    assert "limits.wall_hours: this command has run for its 2 h" in str(limited.pause_reason())
    began = clock.now - 7200  # the trials were resolved, and a preflight ran
    assert Budget(Limits(wall_hours=2), 1, clock=clock, began=began).pause_reason() is not None


def test_trial_limit_lets_started_trials_finish() -> None:
    limited = budget(Clock(), trials=2)
    limited.started("a")
    assert limited.may_start()
    assert not limited.may_start(pending=1)
    limited.started("b")
    assert not limited.may_start()
    assert limited.pause_reason() is None
    assert limited.left_out_reason() is None  # there may not be a third trial
    limited.leave_out()
    assert "limits.trials: this command has started 2 trials" in str(limited.left_out_reason())


def test_limit_reached_after_the_last_trial_leaves_nothing_out() -> None:
    clock = Clock()
    limited = budget(clock, wall_hours=1)
    limited.started("a")
    limited.ended("a", failed=True)
    clock.now += 7200  # scoring takes longer than the limit
    assert limited.pause_reason() is not None
    assert limited.left_out_reason() is None
    limited.leave_out()
    assert "limits.wall_hours: this command has run for its 1 h" in str(limited.left_out_reason())


def test_failure_limit_stops_the_study_at_its_value() -> None:
    limited = budget(Clock(), failures=2)
    for name in ("a", "b", "c"):
        limited.started(name)
    limited.ended("a", failed=True)
    assert limited.may_start()
    limited.ended("b")
    assert limited.may_start()
    limited.ended("c", failed=True)
    assert "limits.failures: 2 trials have failed" in str(limited.pause_reason())


def test_recorded_hours_prefer_gpu_hours() -> None:
    assert recorded_hours({"trial/gpu_hours": 2.0}) == 2.0
    assert recorded_hours({"trial/worker_hours": 3.0}) == 3.0
    assert recorded_hours({}) == 0.0
