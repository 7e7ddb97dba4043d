"""The recorder of trial events, with a fake tracking store."""

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
from orchestrator.study.mirrors import MirrorOptions
from orchestrator.study.resources import Resources
from orchestrator.sweep import recorder
from orchestrator.sweep.active_trial import ActiveTrial
from orchestrator.sweep.recorder import Recorder
from orchestrator.training.failures import Failure
from orchestrator.training.stop_file import StopFile
from orchestrator.training.worker import CODE, DEVICE, WORKERS

NAME = "trial"


class FakeStudyRun:
    """A fake study run that notes the calls for one trial; writes block while `gate` is closed."""

    def __init__(self, resources: Resources) -> None:
        config = SimpleNamespace(
            study="flows", imports=(), resources=resources, mirror=MirrorOptions()
        )
        self.study = SimpleNamespace(config=config)
        self.store = self
        self.gate = threading.Event()
        self.gate.set()
        self.epochs: dict[int, dict[str, float]] = {}
        self.times: list[tuple[int, dict[str, float]]] = []
        self.refused: set[int] = set()
        self.ended: list[tuple[str, ...]] = []
        self.codes: list[str] = []
        self.workers: list[int] = []

    def exists(self, run_id: str) -> bool:
        return True

    def check_lock(self) -> None:
        pass

    def log_artifact(self, run_id: str, path: Path, folder: str | None = None) -> None:
        assert self.gate.wait(10)

    def log_epoch(
        self, run_id: str, epoch: int, metrics: dict[str, float], time_ms: int | None = None
    ) -> None:
        assert self.gate.wait(10)
        if epoch in self.refused:
            self.refused.remove(epoch)
            raise OSError("the store is away")
        assert epoch not in self.epochs
        self.epochs[epoch] = metrics

    def log_time(self, run_id: str, epoch: int, metrics: dict[str, float], time_ms: int) -> None:
        self.times.append((epoch, metrics))

    def confirm_epoch(self, run_id: str, metrics: dict[str, float]) -> None:
        pass

    def record_code(self, run_id: str, code: str) -> None:
        self.codes.append(code)

    def record_workers(self, run_id: str, workers: int) -> None:
        self.workers.append(workers)

    def end_trial(self, run_id: str, *outcome: str) -> None:
        self.ended.append(outcome)


class TrialRecording:
    """A recorder of one trial with two GPUs per worker, and its dependencies."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recorder, "log_models", lambda *_: None)
        monkeypatch.setattr(recorder, "measurement_of_trial", lambda *_: None)
        self.study = FakeStudyRun(Resources(workers=(1, 8)))
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
        self.waiting: list[str] = []
        progress.interrupted = self.waiting.append
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
        path = str(checkpoint)
        self.recorder.finished(NAME, {"last_checkpoint": path, "best_checkpoint": path})


@pytest.fixture
def recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrialRecording:
    return TrialRecording(tmp_path, monkeypatch)


def metrics_of(epoch: int) -> dict[str, float]:
    return {"epoch": epoch, "seconds": 3600.0 * epoch}


def checkpoint_of(directory: Path, epochs: int) -> Path:
    history = [metrics_of(epoch) for epoch in range(1, epochs + 1)]
    (directory / "state.json").write_text(json.dumps({"history": history}))
    return directory


def test_hours_follow_the_current_number_of_workers(recording: TrialRecording) -> None:
    recording.epoch(1, workers=8)
    recording.epoch(2, workers=4)
    recording.recorder.close()
    assert recording.budget.device_hours == pytest.approx(2 * 8 + 2 * 4)
    assert recording.study.epochs[2]["trial/gpu_hours"] == pytest.approx(2 * 8 + 2 * 4)


def test_hours_of_an_unfinished_epoch_are_recorded_and_count_once(
    recording: TrialRecording,
) -> None:
    recording.epoch(1, workers=8)
    for hours in (1.25, 1.5):
        recording.clock = 3600.0 * hours
        report = {"seconds": 3600.0 * hours, WORKERS: 4, DEVICE: "a GPU"}
        recording.recorder.checkpoint(NAME, report)
    recording.epoch(2, workers=4)
    recording.recorder.close()
    assert [(epoch, metrics["trial/gpu_hours"]) for epoch, metrics in recording.study.times] == [
        (1, 2 * 8 + 2 * 4 * 0.25),
        (1, 2 * 8 + 2 * 4 * 0.5),
    ]
    assert recording.study.times[-1][1]["trial/seconds"] == 1.5 * 3600
    assert recording.study.epochs[2]["trial/gpu_hours"] == pytest.approx(2 * 8 + 2 * 4)
    assert recording.budget.device_hours == pytest.approx(2 * 8 + 2 * 4)


def test_numbers_of_workers_are_recorded(recording: TrialRecording) -> None:
    for epoch, workers in enumerate((2, 2, 1, 1), start=1):
        recording.recorder.epoch(NAME, {**metrics_of(epoch), WORKERS: workers})
    recording.recorder.close()
    assert recording.study.workers == [2, 1]


def test_code_version_of_the_workers_is_recorded(recording: TrialRecording) -> None:
    recording.trial.code = "first"
    for epoch, code in enumerate(("first", "second", "second"), start=1):
        recording.recorder.epoch(NAME, {**metrics_of(epoch), CODE: code})
    recording.recorder.close()
    assert recording.study.codes == ["second"]


def test_checkpoints_are_read_in_the_background(recording: TrialRecording, tmp_path: Path) -> None:
    recording.study.gate.clear()
    recording.epoch(1, workers=1)
    recording.finished(tmp_path / "not there yet")  # reading it in this thread would raise an error
    (tmp_path / "not there yet").mkdir()
    checkpoint_of(tmp_path / "not there yet", epochs=1)
    recording.study.gate.set()
    recording.recorder.close()
    assert recording.study.ended == [("FINISHED",)]


def test_missing_epochs_are_filled_in_from_the_checkpoint(
    recording: TrialRecording, tmp_path: Path
) -> None:
    recording.study.refused.add(1)
    recording.epoch(1, workers=1)
    recording.epoch(2, workers=1)
    recording.finished(checkpoint_of(tmp_path, epochs=3))
    recording.recorder.close()
    assert set(recording.study.epochs) == {1, 2, 3}
    assert recording.study.epochs[3]["trial/seconds"] == 3 * 3600.0
    assert not recording.recorder.failures


def test_epoch_that_was_recorded_before_a_crash_is_not_recorded_again(
    recording: TrialRecording,
) -> None:
    recording.trial.logged = {1, 2}
    recording.trial.seconds = 2 * 3600.0
    for epoch in (2, 3, 3):
        recording.epoch(epoch, workers=1)
    recording.recorder.close()
    assert recording.study.epochs.keys() == {3}
    assert not recording.recorder.failures
    assert recording.study.epochs[3]["trial/gpu_hours"] == pytest.approx(2.0)  # two GPUs


def test_unreadable_checkpoint_fails_the_trial(recording: TrialRecording, tmp_path: Path) -> None:
    recording.finished(tmp_path / "nowhere")
    recording.recorder.close()
    assert "not a readable checkpoint" in recording.recorder.failures[NAME]
    ((status, reason),) = recording.study.ended
    assert status == "FAILED"
    assert reason == recording.recorder.failures[NAME]


def test_full_disk_pauses_the_study_instead_of_failing_the_trial(
    recording: TrialRecording, tmp_path: Path
) -> None:
    recording.recorder.failed(NAME, Failure("disk full", "OSError: No space left on device"))
    assert recording.recorder.pause_requested()
    assert not recording.recorder.may_start(0)
    recording.recorder.close()
    assert recording.recorder.failures == {}
    ((status, reason),) = recording.study.ended
    assert status == "KILLED"
    assert reason.startswith("stopped at a checkpoint: no space left on the disk of ")
    assert "rerun the same command" in (recording.budget.left_out_reason() or "")


def test_a_pause_ends_trials_that_wait_for_machines_once_none_trains(
    recording: TrialRecording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "GRACE_SECONDS", 0.0)
    recording.budget.pause("no space")
    assert recording.recorder.pause_requested()
    assert not recording.recorder.stop_requested()  # the trial ends at its next report
    recording.recorder.interrupted(NAME)
    assert recording.waiting == [NAME]
    assert recording.recorder.stop_requested()
    recording.recorder.paused(NAME)
    recording.recorder.close()
    assert recording.study.ended == [("KILLED", "stopped at a checkpoint: no space")]
