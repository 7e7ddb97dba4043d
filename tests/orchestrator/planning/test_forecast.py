"""Remaining work of each trial, and the forecast of a study's time, cost and disk space."""

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.planning.forecast import (
    Capacity,
    Forecaster,
    checkpoint_bytes,
    passes,
    priorities,
    remaining,
)
from orchestrator.scheduling.policy import GangShape
from orchestrator.study.resolved import ResolvedTrial
from pipelines.evaluation.config import InferenceConfig
from tests.support.planned_study import forecast_of, resolved, timed


def with_settings(trial: ResolvedTrial, section: str, **changes: object) -> ResolvedTrial:
    """Return a trial with other settings in a section of its experiment."""
    changed = replace(getattr(trial.experiment, section), **changes)
    return replace(trial, experiment=replace(trial.experiment, **{section: changed}))


def test_remaining_steps_and_validations(file: Path) -> None:
    _, trials = resolved(file)
    # 14 images in batches of 6 are 3 steps; validation after epochs 4, 8 and 10, the last.
    assert remaining(trials[0], 0) == (30, 3)
    assert remaining(trials[0], 4) == (18, 2)
    assert remaining(trials[0], 9) == (3, 1)
    assert remaining(trials[0], 10) == (0, 0)
    trial = with_settings(trials[0], "training", epochs=None, steps=14)
    # 14 steps are 4 epochs and 2 steps; validation after epochs 4 and 5, the last.
    assert remaining(trial, 0) == (14, 2)
    assert remaining(trial, 4) == (2, 1)
    assert remaining(trial, 5) == (0, 0)
    assert remaining(with_settings(trials[0], "data", validation_split=None), 0) == (30, 0)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (InferenceConfig(), 1),
        (InferenceConfig(scales=(0.5, 2.0), flip=True), 2 * (0.25 + 4)),
        (InferenceConfig(window=(64, 64), stride=(32, 64)), 2),
    ],
)
def test_passes_over_each_pixel(config: InferenceConfig, count: float) -> None:
    assert passes(config) == count


@pytest.mark.parametrize(
    ("training", "copies"),
    [({}, 2), ({"momentum": 0.0}, 2), ({"optimizer": "adamw"}, 3), ({"ema": 0.99}, 3)],
)
def test_checkpoint_has_the_weights_and_their_averages(
    file: Path, training: dict[str, object], copies: int
) -> None:
    trial = resolved(file)[1][0]
    expected = copies * 4e6 * trial.cost.values_m
    assert checkpoint_bytes(with_settings(trial, "training", **training)) == pytest.approx(expected)


def test_forecast_schedules_the_trials_on_the_nodes(file: Path) -> None:
    study, trials = resolved(file)
    forecast = forecast_of(study, trials)
    seconds = 30 + 30 * 60 + 3 * 30
    assert [trial.estimate.value for trial in forecast.trials if trial.estimate] == [seconds] * 6
    assert forecast.wall.value == pytest.approx(3 * seconds)
    assert forecast.longest.value == pytest.approx(seconds)
    assert forecast.device_hours.value == pytest.approx(6 * seconds / 3600)
    assert forecast.cost is not None
    assert forecast.cost.value == pytest.approx(2 * 6 * seconds / 3600)
    assert forecast.wall.low < forecast.wall.value < forecast.wall.high
    # Last and best checkpoints with momentum, and a second copy of the weights of each.
    bytes_of_one = 6 * 4 * trials[0].cost.values_m * 1e6
    assert forecast.trials[0].disk == pytest.approx(bytes_of_one, rel=1e-3)
    assert forecast_of(study, trials, cpus=6.0).wall.value == pytest.approx(seconds)


def test_intervals_of_a_study_follow_from_those_of_its_trials(file: Path) -> None:
    """The measured trials have a narrow interval; a large one, which was not measured, a wide
    one."""
    study, trials = resolved(file)
    large = replace(
        trials[-1],
        name="large",
        identity="large",
        cost=replace(trials[-1].cost, gflops=900.0),
    )
    measured = [timed(trial, study) for trial in trials]
    forecaster = Forecaster.of(trials, study.config.resources, measured, "cpu", "device")
    every = [*trials, large]
    estimates = [forecaster.trial(trial) for trial in every]
    own = estimates[-1]
    assert own.high / own.value > 1.5 > 1.3 > estimates[0].high / estimates[0].value
    capacity = Capacity(GangShape.of(1, {"CPU": 1.0}), 1.0, [{"CPU": 1.0}], None, price=1.0)
    todo = {trial.identity for trial in every}
    forecast = forecaster.study(every, todo, {}, priorities(study.config, every), capacity)
    assert forecast.longest == own
    for bound in ("low", "value", "high"):
        total = sum(getattr(estimate, bound) for estimate in estimates)
        assert getattr(forecast.device_hours, bound) == pytest.approx(total / 3600)
    assert forecast.wall.value == pytest.approx(sum(estimate.value for estimate in estimates))
    alone = forecaster.study([large], {"large"}, {}, {"large": 0}, capacity)
    assert alone.wall == own


def test_finished_trials_cost_nothing_and_shared_trials_count_once(file: Path) -> None:
    study, trials = resolved(file)
    twin = replace(trials[0], name="twin")
    assert forecast_of(study, [*trials, twin]).wall == forecast_of(study, trials).wall
    capacity = Capacity(GangShape.of(1, {"CPU": 1.0}), 1.0, [{"CPU": 1.0}], None)
    forecaster = Forecaster.of(
        trials, study.config.resources, [timed(trials[0], study)], "cpu", "device"
    )
    priority = priorities(study.config, trials)
    partial = forecaster.study(
        trials, {trials[0].identity}, {trials[0].identity: 9}, priority, capacity
    )
    assert partial.wall.value == pytest.approx(30 + 3 * 60 + 30)
    assert [trial.estimate is None for trial in partial.trials] == [False] + [True] * 5


def test_first_seed_of_the_first_variants_has_priority(file: Path) -> None:
    study, trials = resolved(file)
    priority_of = priorities(study.config, trials)
    first = [trial.name for trial in trials if priority_of[trial.identity] == 0]
    assert first == ["strong, seed 0", "full, seed 0"]
