"""What remains of each trial, and what a study would take."""

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.planning.forecast import (
    Capacity,
    Forecaster,
    priorities,
    remaining,
)
from orchestrator.scheduling.policy import GangShape
from tests.support.planned_study import forecast_of, resolved, timed


def test_steps_and_validations_that_remain(file: Path) -> None:
    _, trials = resolved(file)
    # 14 images in batches of 6 are 3 steps; validated after 4, 8 and the last, tenth, epoch.
    assert remaining(trials[0], 0) == (30, 3)
    assert remaining(trials[0], 4) == (18, 2)
    assert remaining(trials[0], 9) == (3, 1)
    assert remaining(trials[0], 10) == (0, 0)


def test_a_study_is_its_trials_on_the_nodes_given(file: Path) -> None:
    study, trials = resolved(file)
    found = forecast_of(study, trials)
    each = 30 + 30 * 60 + 3 * 30
    assert [trial.estimate.seconds for trial in found.trials if trial.estimate] == [each] * 6
    assert found.wall.seconds == pytest.approx(3 * each)
    assert found.longest.seconds == pytest.approx(each)
    assert found.device_hours.seconds == pytest.approx(6 * each / 3600)
    assert found.cost is not None
    assert found.cost.seconds == pytest.approx(2 * 6 * each / 3600)
    assert found.wall.low < found.wall.seconds < found.wall.high
    # Last and best checkpoint with momentum, and the weights of both once more.
    bytes_of_one = 6 * 4 * trials[0].cost.values_m * 1e6
    assert found.trials[0].disk == pytest.approx(bytes_of_one, rel=1e-3)
    assert forecast_of(study, trials, cpus=6.0).wall.seconds == pytest.approx(each)


def test_what_is_done_takes_nothing_and_what_is_shared_counts_once(file: Path) -> None:
    study, trials = resolved(file)
    twin = replace(trials[0], name="twin")
    assert forecast_of(study, [*trials, twin]).wall == forecast_of(study, trials).wall
    capacity = Capacity(GangShape.of(1, {"CPU": 1.0}), 1.0, [{"CPU": 1.0}], None)
    forecaster = Forecaster.of(
        trials, study.config.resources, [timed(trials[0], study)], "cpu", "device"
    )
    priority = priorities(study.config, trials)
    some = forecaster.study(
        trials, {trials[0].identity}, {trials[0].identity: 9}, priority, capacity
    )
    assert some.wall.seconds == pytest.approx(30 + 3 * 60 + 30)
    assert [trial.estimate is None for trial in some.trials] == [False] + [True] * 5


def test_the_table_s_frame_comes_first(file: Path) -> None:
    study, trials = resolved(file)
    found = priorities(study.config, trials)
    early = [trial.name for trial in trials if found[trial.identity] == 0]
    assert early == ["strong, seed 0", "full, seed 0"]
