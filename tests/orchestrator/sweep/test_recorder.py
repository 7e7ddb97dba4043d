"""What happens to trials on its way into the ledger, with a ledger that only takes notes."""

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from orchestrator.context import RunContext, StopRequest
from orchestrator.scheduling.budget import Budget
from orchestrator.storage import Storage
from orchestrator.study.config import Limits
from orchestrator.study.resources import Resources
from orchestrator.sweep import recorder
from orchestrator.sweep.recorder import ActiveTrial, Recorder
from orchestrator.training.stop_file import StopFile
from orchestrator.training.worker import CODE, DEVICE, WORKERS

NAME = "trial"


class Study:
    """Notes what is recorded of one trial, while `gate` is open."""

    def __init__(self, resources: Resources) -> None:
        study = SimpleNamespace(imports=(), resources=resources)
        self.study = SimpleNamespace(study=study)
        self.store = self
        self.gate = threading.Event()
        self.gate.set()
        self.epochs: dict[int, dict[str, float]] = {}
        self.refused: set[int] = set()
        self.ended: list[tuple[str, ...]] = []
        self.codes: list[str] = []

    def exists(self, run_id: str) -> bool:
        return True

    def check_lock(self) -> None:
        pass

    def log_artifact(self, run_id: str, path: Path, folder: str | None = None) -> None:
        assert self.gate.wait(10)

    def log_epoch(self, run_id: str, epoch: int, metrics: dict[str, float]) -> None:
        assert self.gate.wait(10)
        if epoch in self.refused:
            self.refused.remove(epoch)
            raise OSError("the store is away")
        assert epoch not in self.epochs
        self.epochs[epoch] = metrics

    def confirm_epoch(self, run_id: str, metrics: dict[str, float]) -> None:
        pass

    def record_code(self, run_id: str, code: str) -> None:
        self.codes.append(code)

    def end_trial(self, run_id: str, *how: str) -> None:
        self.ended.append(how)


class Watched:
    """A recorder of one trial on two GPUs to a worker, and all that it works on."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recorder, "log_models", lambda *_: None)
        monkeypatch.setattr(recorder, "measured", lambda *_: None)
        self.study = Study(Resources(workers=(1, 8)))
        self.clock = 0.0
        self.budget = Budget(Limits(), 2.0, clock=lambda: self.clock)
        data = SimpleNamespace(validation_split="val")
        trial: Any = SimpleNamespace(experiment=SimpleNamespace(data=data))
        self.trial = ActiveTrial(trial, "id", set(), 0.0, 0.0, workers=1, devices=2.0)
        console = Console(quiet=True)
        context = RunContext(
            Storage.parse(str(directory)), None, console, directory / "log", StopRequest()
        )
        progress: Any = SimpleNamespace(epoch=lambda *_: None, ended=lambda *_: None)
        progress.say = lambda *_: None
        study_run: Any = self.study
        self.recorder = Recorder(
            study_run,
            progress,
            {NAME: self.trial},
            context,
            StopFile(""),
            on_gpu=True,
            budget=self.budget,
            on_finished=lambda: None,
        )
        self.budget.started(NAME)

    def epoch(self, epoch: int, workers: int) -> None:
        self.clock = 3600.0 * epoch
        self.recorder.epoch(NAME, {**metrics_of(epoch), WORKERS: workers, DEVICE: "a GPU"})

    def finished(self, checkpoint: Path) -> None:
        place = str(checkpoint)
        self.recorder.finished(NAME, {"last_checkpoint": place, "best_checkpoint": place})


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(tmp_path, monkeypatch)


def metrics_of(epoch: int) -> dict[str, float]:
    return {"epoch": epoch, "seconds": 3600.0 * epoch}


def checkpoint_of(directory: Path, epochs: int) -> Path:
    history = [metrics_of(epoch) for epoch in range(1, epochs + 1)]
    (directory / "state.json").write_text(json.dumps({"history": history}))
    return directory


def test_hours_are_those_of_the_workers_at_work(watched: Watched) -> None:
    watched.epoch(1, workers=8)
    watched.epoch(2, workers=4)
    watched.recorder.close()
    assert watched.budget.device_hours == pytest.approx(2 * 8 + 2 * 4)
    assert watched.study.epochs[2]["trial/gpu_hours"] == pytest.approx(2 * 8 + 2 * 4)


def test_the_code_is_that_of_the_workers(watched: Watched) -> None:
    watched.trial.code = "first"
    for epoch, code in enumerate(("first", "second", "second"), start=1):
        watched.recorder.epoch(NAME, {**metrics_of(epoch), CODE: code})
    watched.recorder.close()
    assert watched.study.codes == ["second"]


def test_the_fleet_waits_for_no_checkpoint(watched: Watched, tmp_path: Path) -> None:
    watched.study.gate.clear()
    watched.epoch(1, workers=1)
    watched.finished(tmp_path / "not there yet")  # it would raise, were it read here
    (tmp_path / "not there yet").mkdir()
    checkpoint_of(tmp_path / "not there yet", epochs=1)
    watched.study.gate.set()
    watched.recorder.close()
    assert watched.study.ended == [("FINISHED",)]


def test_a_checkpoint_fills_in_the_epochs_that_were_lost(watched: Watched, tmp_path: Path) -> None:
    watched.study.refused.add(1)
    watched.epoch(1, workers=1)
    watched.epoch(2, workers=1)
    watched.finished(checkpoint_of(tmp_path, epochs=3))
    watched.recorder.close()
    assert set(watched.study.epochs) == {1, 2, 3}
    assert watched.study.epochs[3]["trial/seconds"] == 3 * 3600.0
    assert not watched.recorder.failures


def test_a_checkpoint_that_cannot_be_read_fails_the_trial(watched: Watched, tmp_path: Path) -> None:
    watched.finished(tmp_path / "nowhere")
    watched.recorder.close()
    assert "not a readable checkpoint" in watched.recorder.failures[NAME]
    ((status, reason),) = watched.study.ended
    assert status == "FAILED"
    assert reason == watched.recorder.failures[NAME]
