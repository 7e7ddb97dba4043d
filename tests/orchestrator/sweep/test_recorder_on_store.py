"""The recorder driven by hand: no Ray, and a real ledger whose writes fail when told to."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.tracking import MlflowClient
from rich.console import Console
from safetensors.torch import save_file

from orchestrator.context import RunContext, StopRequest
from orchestrator.scheduling.budget import Budget
from orchestrator.storage import Storage
from orchestrator.study.config import Limits
from orchestrator.study.load import load_study
from orchestrator.study.resolve import ResolvedTrial, resolve_trials
from orchestrator.study.study import Study
from orchestrator.sweep.progress import StudyProgress, TrialProgress
from orchestrator.sweep.recorder import ActiveTrial, Recorder
from orchestrator.tracking.store import TrackingStore, tracking_uri
from orchestrator.tracking.study_run import StudyRun
from orchestrator.training.stop_file import StopFile
from orchestrator.training.worker import RESULTS_DIRECTORY
from pipelines.network.build import build_network
from pipelines.network.checkpoint import STATE_FILE
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


class Bench:
    """A study of two trials, opened in a ledger, and its recorder."""

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
        """What a trial that reached its last epoch leaves behind."""
        place = self.storage.local / "checkpoints" / name
        (place / RESULTS_DIRECTORY).mkdir(parents=True)
        (place / RESULTS_DIRECTORY / "panels.txt").write_text("a picture")
        trial = self.trials[name].trial
        network = build_network(trial.worker_experiment.model, 10, seed=0)
        save_file(dict(network.state_dict()), place / "model.safetensors")
        whose = lineage(trial.worker_experiment, trial.dataset.manifest.fingerprint, {})
        state = {"experiment": whose, "history": EPOCHS}
        (place / STATE_FILE).write_text(json.dumps(state))
        return {"last_checkpoint": str(place), "best_checkpoint": str(place)}

    def status(self, name: str) -> str:
        return self.store.trial_run(self.trials[name].run_id).status

    def epochs(self, name: str) -> list[int]:
        client = MlflowClient(self.store.tracking_uri)
        history = client.get_metric_history(self.trials[name].run_id, "val/miou")
        return sorted(entry.step for entry in history)


@pytest.fixture
def make(tmp_path: Path, small_streets: Path, empty_store: Path) -> Iterator[Callable[..., Bench]]:
    shutil.copy(empty_store, tmp_path)
    made: list[Bench] = []

    def build(limits: Limits | None = None) -> Bench:
        file = tmp_path / "study.yaml"
        file.write_text(STUDY.replace("DATASET", str(small_streets)))
        made.append(Bench(load_study(file), tmp_path, limits or Limits()))
        return made[-1]

    yield build
    for bench in made:
        bench.study_run.close("KILLED")


def away(*_: object, **__: object) -> None:
    raise MlflowException("the server is away", TEMPORARILY_UNAVAILABLE)


def failing(times: int, work: Callable[..., None]) -> Callable[..., None]:
    """`work`, which raises so many times first."""
    left = iter(range(times))

    def attempt(*args: object, **named: object) -> None:
        if next(left, None) is not None:
            away()
        work(*args, **named)

    return attempt


def test_a_finished_run_has_every_epoch_though_a_write_failed(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last epoch's write is under way, and fails, after the history has been looked through."""
    bench = make()
    bench.recorder.started("one")
    bench.recorder.epoch("one", dict(EPOCHS[0]))
    outcome = bench.checkpoint("one")
    log_epoch = bench.study_run.log_epoch
    monkeypatch.setattr(bench.study_run, "log_epoch", failing(1, log_epoch))
    bench.recorder.epoch("one", dict(EPOCHS[1]))
    bench.recorder.finished("one", outcome)
    bench.recorder.close()
    assert bench.recorder.failures == {}
    assert bench.status("one") == "FINISHED"
    assert bench.epochs("one") == [1, 2]
    record = bench.store.trial_run(bench.trials["one"].run_id)
    assert record.metrics["val/miou"] == 0.5
    assert record.metrics["trial/seconds"] == 20.0
    assert "could not be written" in bench.console.export_text()


def test_a_trial_whose_start_could_not_be_recorded_bears_its_code_all_the_same(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    start_trial = bench.study_run.start_trial
    monkeypatch.setattr(bench.study_run, "start_trial", failing(1, start_trial))
    bench.recorder.started("one")
    bench.recorder.finished("one", bench.checkpoint("one"))
    bench.recorder.close()
    record = bench.store.trial_run(bench.trials["one"].run_id)
    assert (record.status, record.code) == ("FINISHED", bench.trials["one"].code)
    assert bench.recorder.failures == {}


def test_a_run_with_an_epoch_missing_is_not_finished(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    bench.recorder.started("one")
    monkeypatch.setattr(bench.study_run, "log_epoch", away)
    bench.recorder.finished("one", bench.checkpoint("one"))
    bench.recorder.close()
    assert bench.status("one") == "FAILED"
    assert "its results could not be recorded" in bench.recorder.failures["one"]


def test_an_outage_is_no_deletion_and_loses_nothing_of_the_other_trials(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    for name in bench.trials:
        bench.recorder.started(name)
    outcomes = {name: bench.checkpoint(name) for name in bench.trials}
    run_id = bench.trials["one"].run_id
    client = bench.store.client
    end, get = bench.study_run.end_trial, client.get_run

    def no_end(ended: str, *args: object) -> None:
        away() if ended == run_id else end(ended, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as outage:
        outage.setattr(bench.study_run, "end_trial", no_end)
        outage.setattr(client, "get_run", lambda i: away() if i == run_id else get(i))
        for name, outcome in outcomes.items():
            for metrics in EPOCHS:
                bench.recorder.epoch(name, dict(metrics))
            bench.recorder.finished(name, outcome)
        bench.recorder.close()
    assert not bench.recorder.unwanted("one")
    assert bench.status("two") == "FINISHED"
    assert bench.epochs("one") == bench.epochs("two") == [1, 2]
    assert "the server is away" in bench.recorder.failures["one"]
    assert "deleted" not in bench.console.export_text()


def test_a_run_deleted_in_mlflow_is_wanted_no_more(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.recorder.started("one")
    MlflowClient(bench.store.tracking_uri).delete_run(bench.trials["one"].run_id)
    bench.recorder.epoch("one", dict(EPOCHS[0]))
    bench.recorder.close()
    assert bench.recorder.unwanted("one")
    assert "its run was deleted in MLflow" in bench.console.export_text()


@pytest.mark.parametrize("trials", [1, 2])
def test_a_limit_is_a_reason_only_where_a_trial_was_left_out(
    make: Callable[..., Bench], trials: int
) -> None:
    bench = make(Limits(trials=trials))
    for name in list(bench.trials)[:trials]:
        bench.recorder.started(name)
        bench.recorder.failed(name, "no good")
    bench.recorder.close()
    reason = bench.budget.left_out_reason()
    assert (reason is None) == (trials == 2)


@pytest.mark.parametrize("by_user", [False, True])
def test_a_trial_held_by_a_limit_is_left_out_and_one_the_user_stopped_is_not(
    make: Callable[..., Bench], by_user: bool
) -> None:
    bench = make(Limits() if by_user else Limits(wall_hours=1e-9))
    for name in bench.trials:
        bench.recorder.started(name)
    bench.stop.requested = by_user
    bench.recorder.held("one")
    bench.recorder.close()
    assert (bench.budget.left_out_reason() is None) == by_user
    assert bench.status("one") == "KILLED"
