"""A study's limits: the GPU hours of earlier commands, and the time before the first trial."""

import io
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from orchestrator.cluster import refusals
from orchestrator.context import RunContext, StopRequest
from orchestrator.planning.reconcile import ReconcileOptions
from orchestrator.scheduling.budget import Budget
from orchestrator.scheduling.capacity import plan_placement
from orchestrator.storage import Storage
from orchestrator.study.config import Limits
from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials
from orchestrator.sweep import controller as module
from orchestrator.sweep.budget import create_budget
from orchestrator.sweep.controller import SweepController
from orchestrator.tracking.open_store import tracking_uri
from orchestrator.tracking.queries import StoreSnapshot, read_snapshot
from orchestrator.tracking.store import TrackingStore
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
    budget = create_budget(study, read_snapshot(store), placement, began=time.monotonic())
    assert budget.device_hours == pytest.approx(2 * 3 + 2 * 5)


def trial() -> Any:
    return SimpleNamespace(identity="0", name="one")


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch) -> SweepController:
    """Return a controller of a study with one trial, which has a limit of an hour."""
    resources = SimpleNamespace(devices=lambda device: 1)
    config = SimpleNamespace(study="ours", limits=Limits(wall_hours=1), resources=resources)
    study: Any = SimpleNamespace(config=config)
    placement: Any = SimpleNamespace(device="cuda")
    console = Console(file=io.StringIO(), width=200)
    context = RunContext(Storage(Path(), ""), None, console, Path("log"), StopRequest())
    store: Any = None
    cluster: Any = SimpleNamespace(start=lambda: None, logs="logs")
    planner: Any = SimpleNamespace(disk_shortage=lambda _: "", forecaster=None)
    report: Any = None
    monkeypatch.setattr(module, "placement_line", lambda *_: "")
    monkeypatch.setattr(module, "train", lambda *_: {})
    options = ReconcileOptions()
    return SweepController(
        *(study, context, options, placement, [trial()], store, cluster, planner, report),
        resolve=lambda _: [],
    )


def train(controller: SweepController) -> Budget:
    """Train the controller's trials; return its budget."""
    budget = create_budget(
        controller.study, StoreSnapshot((), ()), controller.placement, controller.began
    )
    study_run: Any = None
    controller._train(study_run, controller.trials, {}, budget, lambda: None)
    return budget


def test_preflight_prints_why_machines_are_refused(
    controller: SweepController, monkeypatch: pytest.MonkeyPatch
) -> None:
    output: Any = controller.context.console.file
    refusal = "the preflight waits for machines that were refused: g6.xlarge: VcpuLimitExceeded"

    def check(*_: Any) -> None:
        end = time.monotonic() + 10
        while refusal not in output.getvalue():
            assert time.monotonic() < end, output.getvalue()
            time.sleep(0.01)

    monkeypatch.setattr(refusals, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(refusals, "read_refusal", lambda: "g6.xlarge: VcpuLimitExceeded")
    monkeypatch.setattr(module, "Preflight", lambda *_: SimpleNamespace(check=check))
    train(controller)
    assert refusal in output.getvalue()


def test_wall_hours_include_the_time_before_the_first_trial(
    controller: SweepController, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Any] = []
    check = SimpleNamespace(check=lambda *arguments: checked.append(arguments))
    monkeypatch.setattr(module, "Preflight", lambda *_: check)
    for hours in (0.9, 1.1):
        controller.began = time.monotonic() - 3600 * hours
        budget = train(controller)
    assert len(checked) == 1  # no preflight of trials that may not start
    assert "limits.wall_hours" in str(budget.pause_reason())
