"""A study's limits: the GPU hours of earlier commands, and the time before the first trial."""

import io
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from orchestrator.cluster import refusals
from orchestrator.context import StopRequest
from orchestrator.scheduling.budget import Budget
from orchestrator.scheduling.capacity import plan_placement
from orchestrator.study.config import Limits
from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials
from orchestrator.sweep import controller as module
from orchestrator.sweep.controller import SweepController
from orchestrator.tracking.store import TrackingStore, tracking_uri
from orchestrator.tracking.study_run import StudyRun

STUDY = """\
study: STUDY
base:
  data: {dataset: DATASET, crop: [32, 48]}
  model: {backbone: dfnet1, channels: 8}
  training: {epochs: EPOCHS, batch: 6, precision: fp32}
variants: {one: {}}
seeds: [0, 1]
resources: {device: cpu, workers: 2}
"""


@pytest.mark.slow
def test_gpu_hours_include_all_earlier_trials_of_the_study(
    tmp_path: Path, small_streets: Path, own_store: Path
) -> None:
    """Also of experiments no longer in the study and of trials that this command leaves out."""
    store = TrackingStore(tracking_uri(own_store), own_store / "artifacts")
    file = tmp_path / "study.yaml"
    text = STUDY.replace("DATASET", str(small_streets))
    for study, epochs in (("other", 3), ("ours", 3), ("ours", 5)):
        file.write_text(text.replace("STUDY", study).replace("EPOCHS", str(epochs)))
        study = load_study(file)
        study_run = StudyRun.open(store, study)
        for trial in resolve_trials(study.trials, "cpu", tmp_path):
            run_id = study_run.begin_trial(trial, None, None)
            study_run.log_epoch(run_id, 1, {"trial/worker_hours": float(epochs)})
            study_run.end_trial(run_id, "KILLED")
        study_run.close("KILLED")
    study = load_study(file, [], ["one, seed 1"])
    placement = plan_placement(study.config.resources, [{"CPU": 4.0}])
    controller = SweepController(study, None, None, placement, [], store, None, None, None)  # type: ignore[arg-type]
    controller._reconcile()
    budget = controller._create_budget()
    assert budget.device_hours == pytest.approx(2 * 3 + 2 * 5)


@pytest.fixture
def waiting_controller(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a controller of a study with one trial, which has a limit of an hour."""
    resources = SimpleNamespace(devices=lambda device: 1)
    config = SimpleNamespace(study="ours", limits=Limits(wall_hours=1), resources=resources)
    console = Console(file=io.StringIO(), width=200)
    context = SimpleNamespace(console=console, log="log", preflight=True, stop=StopRequest())
    controller: Any = object.__new__(SweepController)
    controller.study, controller.context = SimpleNamespace(config=config), context
    controller.placement = SimpleNamespace(device="cuda")
    controller.planner = SimpleNamespace(disk_shortage=lambda _: "", forecaster=None)
    controller.cluster = SimpleNamespace(start=lambda: None, logs="logs")
    controller.store = None
    controller.trials, controller._snapshot = [], SimpleNamespace(trials=[])
    controller._started_after, controller.began, controller.failures = None, time.monotonic(), {}

    monkeypatch.setattr(module, "placement_line", lambda *_: "")
    monkeypatch.setattr(module, "train", lambda *_: {})
    return controller


def test_preflight_prints_why_machines_are_refused(
    waiting_controller: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = waiting_controller.context.console.file
    refusal = "the preflight waits for machines that were refused: g6.xlarge: VcpuLimitExceeded"

    def check(*_: Any) -> None:
        end = time.monotonic() + 10
        while refusal not in output.getvalue():
            assert time.monotonic() < end, output.getvalue()
            time.sleep(0.01)

    monkeypatch.setattr(refusals, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(refusals, "read_refusal", lambda: "g6.xlarge: VcpuLimitExceeded")
    monkeypatch.setattr(module, "Preflight", lambda *_: SimpleNamespace(check=check))
    budget = waiting_controller._create_budget()
    waiting_controller._train(None, [trial()], {}, budget, None)
    assert refusal in output.getvalue()


def test_wall_hours_include_the_time_before_the_first_trial(
    waiting_controller: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Any] = []
    check = SimpleNamespace(check=lambda *arguments: checked.append(arguments))
    monkeypatch.setattr(module, "Preflight", lambda *_: check)
    for hours in (0.9, 1.1):
        waiting_controller.began = time.monotonic() - 3600 * hours
        budget = waiting_controller._create_budget()
        waiting_controller._train(None, [trial()], {}, budget, None)
    assert len(checked) == 1  # no preflight of trials that may not start
    assert "limits.wall_hours" in str(budget.hold_reason())


def test_wait_for_the_trial_of_another_study_ends_at_a_limit(
    waiting_controller: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = {"one": SimpleNamespace(action="wait", run=None)}
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(module, "close_abandoned", lambda _: None)
    budget = Budget(Limits(), 1)
    polls: list[None] = []

    def decide() -> Any:
        polls.append(None)
        if len(polls) == 3:
            budget.hold("a limit")
        return waiting

    waiting_controller._decide = decide
    waiting_controller._wait(waiting, budget)
    assert len(polls) == 3


def trial() -> Any:
    return SimpleNamespace(identity="0", name="one")
