"""The recorder without Ray, on a real tracking store in which chosen writes fail."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.tracking import MlflowClient
from rich.console import Console
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from orchestrator.context import RunContext, StopRequest
from orchestrator.scheduling.budget import Budget
from orchestrator.storage import Storage
from orchestrator.study.config import Limits
from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.sweep import run_writer
from orchestrator.sweep.active_trial import ActiveTrial
from orchestrator.sweep.progress import StudyProgress, TrialProgress
from orchestrator.sweep.recorder import Recorder
from orchestrator.tracking.open_store import tracking_uri
from orchestrator.tracking.store import TrackingStore
from orchestrator.tracking.study_run import StudyRun
from orchestrator.training.failures import Failure
from orchestrator.training.stop_file import StopFile
from orchestrator.training.worker import RESULTS_DIRECTORY
from pipelines.network.build import build_network
from pipelines.network.file_names import STATE_FILE
from pipelines.training.lineage import lineage

STUDY = """\
study: by hand
base:
  data: {dataset: DATASET, crop: [32, 32]}
  model: {backbone: dfnet1, channels: 8}
  training: {epochs: 2, precision: fp32}
variants: {one: {}, two: {set: {model: {flows: []}}}}
"""
EPOCHS = (
    {"epoch": 1, "train/loss": 2.0, "val/miou": 0.25, "seconds": 10.0},
    {"epoch": 2, "train/loss": 1.0, "val/miou": 0.5, "seconds": 20.0},
)


class RecordedStudy:
    """A study of two trials in a tracking store, and its recorder."""

    def __init__(self, study: Study, tmp_path: Path, limits: Limits) -> None:
        self.storage = Storage(tmp_path, str(tmp_path))
        self.store = TrackingStore(tracking_uri(tmp_path), tmp_path / "artifacts")
        self.study_run = StudyRun.open(self.store, study)
        self.trials = {c.name: c for c in resolve_trials(study.trials, "cpu", tmp_path)}
        self.trials = {name: self._tracked(trial) for name, trial in self.trials.items()}
        self.budget = Budget(limits, 1.0)
        self.stop = StopRequest()
        self.console = Console(record=True, width=200)
        self.progress = StudyProgress.of(
            self.console, [TrialProgress(name, 2) for name in self.trials]
        )
        self.recorder = Recorder(
            self.study_run,
            self.progress,
            self.trials,
            RunContext(self.storage, None, self.console, tmp_path / "log", self.stop),
            StopFile(""),
            False,
            self.budget,
            lambda: None,
        )

    def _tracked(self, trial: ResolvedTrial) -> ActiveTrial:
        run_id = self.study_run.begin_trial(trial, None, None)
        return ActiveTrial(trial, run_id, set(), seconds=0.0, hours=0.0, workers=1, devices=1.0)

    def checkpoint(self, name: str) -> dict[str, str]:
        """Write the checkpoint of a trial that reached its last epoch and return its outcome."""
        directory = self.storage.local / "checkpoints" / name
        (directory / RESULTS_DIRECTORY).mkdir(parents=True)
        (directory / RESULTS_DIRECTORY / "panels.txt").write_text("an image")
        trial = self.trials[name].trial
        network = build_network(trial.worker_experiment.model, 10, seed=0)
        save_file(dict(network.state_dict()), directory / "model.safetensors")
        trial_lineage = lineage(trial.worker_experiment, trial.dataset.manifest.fingerprint, {})
        state = {"experiment": trial_lineage, "history": EPOCHS}
        (directory / STATE_FILE).write_text(json.dumps(state))
        return {"last_checkpoint": str(directory), "best_checkpoint": str(directory)}

    def status(self, name: str) -> str:
        return self.store.trial_run(self.trials[name].run_id).status

    def epochs(self, name: str) -> list[int]:
        client = MlflowClient(self.store.tracking_uri)
        history = client.get_metric_history(self.trials[name].run_id, "val/miou")
        return sorted(entry.step for entry in history)


@pytest.fixture
def make(
    tmp_path: Path, small_streets: Path, empty_store: Path
) -> Iterator[Callable[..., RecordedStudy]]:
    shutil.copy(empty_store, tmp_path)
    studies: list[RecordedStudy] = []

    def build(limits: Limits | None = None, more: str = "") -> RecordedStudy:
        file = tmp_path / "study.yaml"
        file.write_text(STUDY.replace("DATASET", str(small_streets)) + more)
        studies.append(RecordedStudy(load_study(file), tmp_path, limits or Limits()))
        return studies[-1]

    yield build
    for recorded in studies:
        recorded.study_run.close("KILLED")


def raise_outage(*_: object, **__: object) -> None:
    raise MlflowException("the server is away", TEMPORARILY_UNAVAILABLE)


def failing(times: int, work: Callable[..., None]) -> Callable[..., None]:
    """Return a function that raises `times` times and then calls `work`."""
    failures_left = iter(range(times))

    def attempt(*args: object, **named: object) -> None:
        if next(failures_left, None) is not None:
            raise_outage()
        work(*args, **named)

    return attempt


def test_finished_run_has_every_epoch_despite_a_failed_write(
    make: Callable[..., RecordedStudy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write of the last epoch is pending and fails after the history was checked."""
    recorded = make()
    recorded.recorder.started("one")
    recorded.recorder.epoch("one", dict(EPOCHS[0]))
    outcome = recorded.checkpoint("one")
    log_epoch = recorded.study_run.log_epoch
    monkeypatch.setattr(recorded.study_run, "log_epoch", failing(1, log_epoch))
    recorded.recorder.epoch("one", dict(EPOCHS[1]))
    recorded.recorder.finished("one", outcome)
    recorded.recorder.close()
    assert recorded.recorder.failures == {}
    assert recorded.status("one") == "FINISHED"
    assert recorded.epochs("one") == [1, 2]
    record = recorded.store.trial_run(recorded.trials["one"].run_id)
    assert record.metrics["val/miou"] == 0.5
    assert record.metrics["trial/seconds"] == 20.0
    assert "could not be written" in recorded.console.export_text()


def test_store_that_does_not_answer_is_reported_while_it_is_silent(
    make: Callable[..., RecordedStudy], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = make()
    recorded.recorder.started("one")
    log_epoch, silent = recorded.study_run.log_epoch, threading.Event()

    def log_late(*args: Any) -> None:
        assert silent.wait(60)
        log_epoch(*args)

    monkeypatch.setattr(recorded.study_run, "log_epoch", log_late)
    monkeypatch.setattr(run_writer, "SLOW_SECONDS", 0.05)
    recorded.recorder.epoch("one", dict(EPOCHS[0]))
    printed = ""
    while "does not answer; training continues" not in printed:
        printed += recorded.console.export_text()
    assert "answers again" not in printed
    silent.set()
    recorded.recorder.epoch("one", dict(EPOCHS[1]))
    recorded.recorder.finished("one", recorded.checkpoint("one"))
    recorded.recorder.close()
    assert "the tracking store answers again" in recorded.console.export_text()
    assert recorded.epochs("one") == [1, 2]


def test_epoch_whose_answer_was_lost_is_recorded_once(
    make: Callable[..., RecordedStudy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is killed after it stored an epoch and before it answered."""
    recorded = make()
    recorded.recorder.started("one")
    log_batch = recorded.store.client.log_batch
    answers = iter([False])

    def lose_the_first_answer(*args: Any, **named: Any) -> None:
        log_batch(*args, **named)
        if "metrics" in named and not next(answers, True):
            raise_outage()

    monkeypatch.setattr(recorded.store.client, "log_batch", lose_the_first_answer)
    for epoch in EPOCHS:
        recorded.recorder.epoch("one", dict(epoch))
    recorded.recorder.finished("one", recorded.checkpoint("one"))
    recorded.recorder.close()
    assert recorded.status("one") == "FINISHED"
    assert "could not be written" in recorded.console.export_text()
    for name in ("epoch", "val/miou", "train/loss"):
        history = recorded.store.client.get_metric_history(recorded.trials["one"].run_id, name)
        assert [entry.step for entry in history] == [1, 2]


def test_copies_have_every_epoch_that_mlflow_has(
    make: Callable[..., RecordedStudy], tmp_path: Path
) -> None:
    """Also epochs whose report was lost, which are read from the checkpoint."""
    recorded = make(more=f"mirror: {{tensorboard: {tmp_path}/events}}\n")
    recorded.recorder.started("one")
    recorded.recorder.epoch("one", dict(EPOCHS[0]))
    recorded.recorder.finished("one", recorded.checkpoint("one"))
    recorded.recorder.close()
    run_id = recorded.trials["one"].run_id
    events = EventAccumulator(str(tmp_path / "events" / "by hand" / "one" / run_id[:8])).Reload()
    shown = [(event.step, event.value) for event in events.Scalars("val/miou")]
    assert shown == [(1, 0.25), (2, 0.5)]
    assert recorded.epochs("one") == [1, 2]


def test_code_version_is_recorded_despite_a_failed_start(
    make: Callable[..., RecordedStudy], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = make()
    start_trial = recorded.study_run.start_trial
    monkeypatch.setattr(recorded.study_run, "start_trial", failing(1, start_trial))
    recorded.recorder.started("one")
    recorded.recorder.finished("one", recorded.checkpoint("one"))
    recorded.recorder.close()
    record = recorded.store.trial_run(recorded.trials["one"].run_id)
    assert (record.status, record.code) == ("FINISHED", recorded.trials["one"].code)
    assert recorded.recorder.failures == {}


def test_run_with_a_missing_epoch_is_left_to_the_next_command(
    make: Callable[..., RecordedStudy], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = make()
    recorded.recorder.started("one")
    monkeypatch.setattr(recorded.study_run, "log_epoch", raise_outage)
    recorded.recorder.finished("one", recorded.checkpoint("one"))
    recorded.recorder.close()
    record = recorded.store.trial_run(recorded.trials["one"].run_id)
    assert record.status == "KILLED"
    assert "its results could not be recorded" in record.reason
    assert recorded.recorder.failures == {}


def test_outage_is_not_a_deletion_and_does_not_affect_other_trials(
    make: Callable[..., RecordedStudy], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = make()
    for name in recorded.trials:
        recorded.recorder.started(name)
    outcomes = {name: recorded.checkpoint(name) for name in recorded.trials}
    run_id = recorded.trials["one"].run_id
    client = recorded.store.client
    end_trial, get_run = recorded.study_run.end_trial, client.get_run

    def fail_for_one(ended_run: str, *args: object) -> None:
        raise_outage() if ended_run == run_id else end_trial(ended_run, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as outage:
        outage.setattr(recorded.study_run, "end_trial", fail_for_one)
        outage.setattr(client, "get_run", lambda i: raise_outage() if i == run_id else get_run(i))
        for name, outcome in outcomes.items():
            for metrics in EPOCHS:
                recorded.recorder.epoch(name, dict(metrics))
            recorded.recorder.finished(name, outcome)
        recorded.recorder.close()
    assert not recorded.recorder.unwanted("one")
    assert recorded.status("two") == "FINISHED"
    assert recorded.epochs("one") == recorded.epochs("two") == [1, 2]
    assert "recorded: the server is away; rerun" in recorded.console.export_text(clear=False)
    assert "deleted" not in recorded.console.export_text()


def test_run_deleted_in_mlflow_is_unwanted(make: Callable[..., RecordedStudy]) -> None:
    recorded = make()
    recorded.recorder.started("one")
    MlflowClient(recorded.store.tracking_uri).delete_run(recorded.trials["one"].run_id)
    recorded.recorder.epoch("one", dict(EPOCHS[0]))
    recorded.recorder.close()
    assert recorded.recorder.unwanted("one")
    assert "its run was deleted in MLflow" in recorded.console.export_text()


@pytest.mark.parametrize("trials", [1, 2])
def test_limit_is_reported_only_if_a_trial_was_left_out(
    make: Callable[..., RecordedStudy], trials: int
) -> None:
    recorded = make(Limits(trials=trials))
    for name in list(recorded.trials)[:trials]:
        recorded.recorder.started(name)
        recorded.recorder.failed(name, Failure("error", "no good"))
    recorded.recorder.close()
    reason = recorded.budget.left_out_reason()
    assert (reason is None) == (trials == 2)


@pytest.mark.slow
@pytest.mark.parametrize("by_user", [False, True])
def test_trial_stopped_by_a_limit_is_left_out_but_not_one_stopped_by_the_user(
    make: Callable[..., RecordedStudy], by_user: bool
) -> None:
    recorded = make(Limits() if by_user else Limits(wall_hours=1e-9))
    for name in recorded.trials:
        recorded.recorder.started(name)
    recorded.stop.requested = by_user
    recorded.recorder.paused("one")
    recorded.recorder.close()
    assert (recorded.budget.left_out_reason() is None) == by_user
    assert recorded.status("one") == "KILLED"
