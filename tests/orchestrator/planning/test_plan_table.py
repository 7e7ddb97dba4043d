"""`--plan` prints a study's forecast without training."""

from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.planning.forecast import (
    Forecaster,
)
from orchestrator.planning.overhead import Overhead
from orchestrator.planning.plan_table import StudyPlan, duration, show_data, show_plan
from orchestrator.scheduling.capacity import plan_placement
from orchestrator.study.trial_state import TrialState
from pipelines.data.facts import summary, training_warnings
from tests.support.planned_study import forecast_of, resolved, timed


@pytest.mark.parametrize("width", [80, 120, 200])
def test_plan_fits_the_terminal(file: Path, width: int) -> None:
    study, trials = resolved(file)
    forecast = forecast_of(study, trials)
    forecaster = Forecaster.of(
        trials, study.config.resources, [timed(trials[0], study)], "cpu", "device"
    )
    console = Console(width=width, record=True, file=None, quiet=False)
    placement = plan_placement(study.config.resources, [{"CPU": 2.0, "trial_driver": 9.0}])
    states = {trial.name: TrialState.MISSING for trial in trials}
    with console.capture() as capture:
        plan = StudyPlan(
            study,
            states,
            forecast,
            forecaster.weakest,
            Overhead(start=10.0, preflight=20.0, end=30.0, measured=True),
            placement,
            "device",
            None,
        )
        show_plan(plan, console)
    text = capture.get()
    assert max(len(line) for line in text.splitlines()) <= width
    for name in ("identity", "GFLOPs", "epochs", "steps", "time", "wall time", "longest", "disk"):
        assert name in text
    assert "limits.gpu_hours will stop the study early" in " ".join(text.split())
    assert "outside trials 60 s" in " ".join(text.split())
    (row,) = [line for line in text.splitlines() if "full, seed 1" in line]
    assert {"missing", "10", "30"} <= set(row.split())


def test_data_of_a_plan_is_described_once(file: Path) -> None:
    """All splits that trials are scored on are described, including those of protocols."""
    with file.open("a") as study_file:
        study_file.write("protocols: {again: {}, other: {split: train+val}}\n")
    study, trials = resolved(file)
    console = Console(width=80)
    with console.capture() as capture:
        show_data(study, trials, console)
    name, dataset = trials[0].experiment.data.dataset, trials[0].dataset
    expected = [f"{name} {line}" for line in summary(dataset, ["train", "val", "train+val"])]
    warnings = training_warnings(dataset, "train", ["val", "train+val"])
    expected += [f"warning  {name} {line}" for line in warnings]
    assert capture.get().splitlines() == expected


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
def test_durations_are_rounded_for_readers(seconds: float, text: str) -> None:
    assert duration(seconds) == text
