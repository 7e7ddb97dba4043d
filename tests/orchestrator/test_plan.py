"""`--plan`: what a study would take, told without training anything."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.planning.estimate import Measurement
from orchestrator.planning.forecast import (
    Capacity,
    Forecaster,
    StudyForecast,
    ranks,
    remaining,
    workload,
)
from orchestrator.planning.measurements import keep
from orchestrator.planning.plan_table import duration, show_plan
from orchestrator.scheduling.capacity import plan_placement
from orchestrator.scheduling.devices import worker_device
from orchestrator.scheduling.policy import GangShape
from orchestrator.study.load import load_study
from orchestrator.study.resolve import ResolvedTrial, resolve_trials
from orchestrator.study.study import Study
from orchestrator.study.trial_state import TrialState
from orchestrator.sweep.__main__ import main

STUDY = """\
study: planned
compare_to: strong
base:
  data: {dataset: DATASET, crop: [32, 48]}
  model: {backbone: dfnet1, channels: 8}
  training: {epochs: 10, batch: 6, precision: fp32}
  evaluation: {every: 4}
variants:
  strong: {set: {model: {flows: []}}}
  middle: {set: {model: {flows: [detail]}}}
  full: {set: {model: {supervision: [3, 4]}}}
seeds: [0, 1]
resources: {cpus_per_worker: 1, price_per_gpu_hour: 2, device: cpu}
limits: {gpu_hours: 0.5}
"""


@pytest.fixture
def file(tmp_path: Path, small_streets: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("DATASET", str(small_streets)))
    return path


def resolved(file: Path) -> tuple[Study, list[ResolvedTrial]]:
    study = load_study(file)
    return study, resolve_trials(study.trials, "cpu", file.parent)


def timed(trial: ResolvedTrial, study: Study, step: float = 60.0) -> Measurement:
    """A trial that took a minute for each step, and half of one to validate and to start."""
    load = workload(trial, study.config.resources)
    return Measurement(load, "device", "fp32", "trial", step, 30.0, 30.0)


def forecast_of(study: Study, trials: list[ResolvedTrial], cpus: float = 2.0) -> StudyForecast:
    measured = [timed(trial, study) for trial in trials]
    forecaster = Forecaster.of(trials, study.config.resources, measured, "cpu", "device")
    placement = GangShape.of(1, {"CPU": 1.0})
    capacity = Capacity(placement, 1.0, [{"CPU": cpus}], None, price=2.0)
    todo = {trial.identity for trial in trials}
    return forecaster.study(trials, todo, {}, ranks(study.config, trials), capacity)


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
    priority = ranks(study.config, trials)
    some = forecaster.study(
        trials, {trials[0].identity}, {trials[0].identity: 9}, priority, capacity
    )
    assert some.wall.seconds == pytest.approx(30 + 3 * 60 + 30)
    assert [trial.estimate is None for trial in some.trials] == [False] + [True] * 5


def test_the_table_s_frame_comes_first(file: Path) -> None:
    study, trials = resolved(file)
    found = ranks(study.config, trials)
    early = [trial.name for trial in trials if found[trial.identity] == 0]
    assert early == ["strong, seed 0", "full, seed 0"]


def test_what_cannot_be_run_is_told_at_once_with_its_trial(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    away = "  away: {set: {data: {dataset: nowhere}}}\n"
    split = "  gap: {set: {data: {train_split: trian}}}\n"
    file.write_text(file.read_text().replace("seeds:", f"{away}{split}seeds:"))
    assert main([str(file), "--storage", str(tmp_path / "storage"), "--plan"]) == 2
    told = [line.strip() for line in capfd.readouterr().out.splitlines()]
    assert told[-3] == "error:"
    assert told[-2].startswith("away, seed 0: ")
    assert told[-1].startswith("gap, seed 0: ")
    assert "no samples in split 'trian'; it has train" in told[-1]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_plan_fits_the_terminal(file: Path, width: int) -> None:
    study, trials = resolved(file)
    forecast = forecast_of(study, trials)
    forecaster = Forecaster.of(
        trials, study.config.resources, [timed(trials[0], study)], "cpu", "device"
    )
    console = Console(width=width, record=True, file=None, quiet=False)
    placement = plan_placement(study.config.resources, [{"CPU": 2.0, "trial_driver": 9.0}])
    states = {trial.name: TrialState.MISSING for trial in trials}
    with console.capture() as capture:
        show_plan(study, states, forecast, forecaster.weakest, placement, "device", None, console)  # type: ignore[arg-type]
    text = capture.get()
    assert max(len(line) for line in text.splitlines()) <= width
    for name in ("identity", "GFLOPs", "epochs", "steps", "time", "wall time", "longest", "disk"):
        assert name in text
    assert "limits.gpu_hours will hold" in " ".join(text.split())
    (row,) = [line for line in text.splitlines() if "full, seed 1" in line]
    assert {"missing", "10", "30"} <= set(row.split())


def test_the_command_plans_and_trains_nothing(
    file: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    study, trials = resolved(file)
    storage = file.parent / "storage"
    known = replace(timed(trials[0], study, step=0.1), device=worker_device("cpu", 1.0))
    keep(storage, [known])
    assert main([str(file), "--plan", "--storage", str(storage)]) == 0
    output = capfd.readouterr().out
    assert "planned: 6 trials: 6 missing" in output
    assert "Times from finished trials" in output
    assert not (storage / "trials").exists()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (89, "89 s"),
        (100, "2 min"),
        (5340, "89 min"),
        (5400, "1 h 30 min"),
        (36000, "10 h"),
        (400000, "111 h"),
    ],
)
def test_times_are_said_as_a_person_would(seconds: float, text: str) -> None:
    assert duration(seconds) == text
