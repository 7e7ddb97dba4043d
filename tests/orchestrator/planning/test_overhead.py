"""Seconds of a command outside its trials: recorded by a sweep, read by the next plan."""

from pathlib import Path

import pytest

from orchestrator.planning.forecast import Forecaster
from orchestrator.planning.overhead import (
    FILE,
    Overhead,
    load_overhead,
    preflight_seconds,
    save_overhead,
)
from orchestrator.planning.preflight_choice import STEPS, distinct
from tests.support.planned_study import resolved, timed


def test_the_own_study_is_preferred_over_the_latest(tmp_path: Path) -> None:
    assert load_overhead(tmp_path, "one") == Overhead(measured=False)
    save_overhead(tmp_path, "one", 5.0, 70.0)
    save_overhead(tmp_path, "other", 6.0, 80.0)
    assert load_overhead(tmp_path, "one") == Overhead(5.0, 0.0, 70.0, measured=True)
    assert load_overhead(tmp_path, "third") == Overhead(6.0, 0.0, 80.0, measured=True)
    save_overhead(tmp_path, "one", 7.0, 90.0)
    assert load_overhead(tmp_path, "third").seconds == 97.0


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"one": 3}', '{"one": {"start": null}}'])
def test_unreadable_file_is_ignored(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    assert load_overhead(tmp_path, "one") == Overhead()
    save_overhead(tmp_path, "one", 1.0, 2.0)
    assert load_overhead(tmp_path, "one").measured


def test_preflight_is_counted_as_the_command_runs_it(file: Path) -> None:
    study, trials = resolved(file)
    measured = [timed(trial, study, step=60.0) for trial in trials]
    forecaster = Forecaster.of(trials, study.config.resources, measured, "cpu", "device")
    chosen = distinct(trials, {})
    assert preflight_seconds(trials, chosen, forecaster, 2) == 0.0  # too short a study
    trials = [*trials] * 20
    run = forecaster.steps(trials[0], 2 * STEPS)
    assert preflight_seconds(trials, chosen, forecaster, 1) == pytest.approx(len(chosen) * run)
    assert preflight_seconds(trials, chosen, forecaster, 9) == pytest.approx(run)
