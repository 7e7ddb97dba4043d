"""The ledger against a real MLflow store in SQLite."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.tracking import MlflowClient

from orchestrator.planning.reconcile import Decision, ReconcileOptions, decide
from orchestrator.study.load import load_study
from orchestrator.study.resolve import ResolvedTrial, resolve_trials
from orchestrator.study.study import Study
from orchestrator.tracking import lock
from orchestrator.tracking.claims import Owner
from orchestrator.tracking.links import sync_links
from orchestrator.tracking.lock import StudyLockLostError
from orchestrator.tracking.queries import take_snapshot
from orchestrator.tracking.store import TrackingError, TrackingStore
from orchestrator.tracking.study_run import StudyRun

STUDY = """\
study: ledger test
description: What a **reader** sees first.
base:
  data: {dataset: DATASET, crop: [32, 32]}
  model: {backbone: dfnet1, channels: 8}
  training: {precision: fp32}
variants:
  full: {}
"""


@pytest.fixture
def study(tmp_path: Path, small_streets: Path) -> Study:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("DATASET", str(small_streets)))
    return load_study(path)


@pytest.fixture
def trial(study: Study, tmp_path: Path) -> ResolvedTrial:
    return resolve_trials(study.trials, "cpu", tmp_path)[0]


@pytest.fixture
def uri(tmp_path: Path, empty_ledger: Path) -> str:
    return f"sqlite:///{shutil.copy(empty_ledger, tmp_path / 'mlflow.db')}"


@pytest.fixture
def store(uri: str, tmp_path: Path) -> TrackingStore:
    return TrackingStore(uri, tmp_path / "artifacts")


@pytest.fixture
def study_run(store: TrackingStore, study: Study) -> Iterator[StudyRun]:
    study_run = StudyRun.open(store, study)
    yield study_run
    study_run.close("FINISHED")


def decided(study_run: StudyRun, trial: ResolvedTrial) -> Decision:
    """What is to be done about a trial, by what the ledger holds."""
    records = take_snapshot(study_run.store).by_identity([trial.identity]).get(trial.identity, [])
    return decide(records, study_run.study.config.study, trial.code, ReconcileOptions())


def finish(study_run: StudyRun, trial: ResolvedTrial) -> str:
    """A trial's run from its beginning to its end."""
    run_id = study_run.begin_trial(trial, None, None)
    study_run.start_trial(run_id, trial.code)
    study_run.log_epoch(run_id, 1, {"val/miou": 0.5})
    study_run.end_trial(run_id, "FINISHED")
    return run_id


def test_a_trial_from_beginning_to_end(study_run: StudyRun, trial: ResolvedTrial, uri: str) -> None:
    run_id = study_run.begin_trial(trial, "abc123", None)
    client = MlflowClient(uri)
    assert client.get_run(run_id).info.status == "SCHEDULED"
    study_run.start_trial(run_id, trial.code)
    assert client.get_run(run_id).info.status == "RUNNING"
    for epoch in (1, 2):
        study_run.log_epoch(
            run_id, epoch, {"val/miou": 0.1 * epoch, "val/iou/traffic sign, old": 0.5}
        )
    study_run.end_trial(run_id, "FINISHED")

    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == study_run.parent_id
    assert run.data.tags["mlflow.source.git.commit"] == "abc123"
    assert run.data.tags["orchestrator.identity"] == trial.identity
    assert run.data.tags["orchestrator.data"] == trial.dataset.manifest.fingerprint
    assert run.data.params["model.backbone"] == "dfnet1"
    assert run.data.params["training.loss.threshold"] == "0.7"
    assert run.data.metrics["model/gflops"] == pytest.approx(trial.cost.gflops)
    assert run.data.metrics["val/iou/traffic-sign-old"] == 0.5
    history = client.get_metric_history(run_id, "val/miou")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.1), (2, 0.2)]

    decision = decided(study_run, trial)
    assert decision.state == "finished"
    record = decision.record
    assert record is not None
    assert (record.run_id, record.epoch, record.status) == (run_id, 2, "FINISHED")


def test_mlflow_first_shows_the_trials_the_best_first(study_run: StudyRun, uri: str) -> None:
    experiment = MlflowClient(uri).get_experiment(study_run.experiment_id)
    view = json.loads(experiment.tags["mlflow.sharedViewState.study"])
    # Sorted by a metric, because MLflow folds the trials into the study's run where they are not.
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`val/miou`", False)
    assert view["columnOrder"][:3] == [
        "attributes.`Run Name`",
        "metrics.`val/miou`",
        "metrics.`val/best_miou`",
    ]
    assert set(view["selectedColumns"]) < set(view["columnOrder"])
    (section,) = view["compareRunSections"]
    assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} == {section["uuid"]}
    assert view["compareRunCharts"][0]["metricKey"] == "val/miou"


def test_an_unfinished_trial_is_reopened(study_run: StudyRun, trial: ResolvedTrial) -> None:
    run_id = study_run.begin_trial(trial, None, None)
    study_run.start_trial(run_id, trial.code)
    study_run.log_epoch(run_id, 1, {"train/loss": 2.0})
    study_run.end_trial(run_id, "FAILED", "out of luck")
    decision = decided(study_run, trial)
    record = decision.record
    assert record is not None
    assert (decision.state, record.reason) == ("failed", "out of luck")
    assert study_run.begin_trial(trial, None, record) == run_id
    assert study_run.logged_epochs(record) == {1}
    assert study_run.store.trial_run(run_id).status == "SCHEDULED"


def test_a_trial_resumed_under_other_sources_bears_both_versions(
    study_run: StudyRun, trial: ResolvedTrial
) -> None:
    run_id = study_run.begin_trial(trial, None, None)
    for code in ("first", "first", "second"):
        study_run.start_trial(run_id, code)
    study_run.end_trial(run_id, "FINISHED")
    assert study_run.store.trial_run(run_id).code == "first+second"
    assert decided(study_run, trial).state == "stale"


def test_a_deleted_run_is_missing(study_run: StudyRun, trial: ResolvedTrial, uri: str) -> None:
    run_id = finish(study_run, trial)
    MlflowClient(uri).delete_run(run_id)
    assert decided(study_run, trial) == Decision("missing", "train", None)


def other_study(study: Study, tmp_path: Path) -> Study:
    file = tmp_path / "other.yaml"
    file.write_text(study.text.replace("study: ledger test", "study: another"))
    return load_study(file)


def test_a_finished_trial_of_another_study_is_linked_until_it_is_deleted(
    study_run: StudyRun, trial: ResolvedTrial, study: Study, uri: str, tmp_path: Path
) -> None:
    other = StudyRun.open(study_run.store, other_study(study, tmp_path))
    run_id = finish(other, trial)
    other.close("FINISHED")
    decision = decided(study_run, trial)
    record = decision.record
    assert record is not None
    assert (decision.action, record.run_id, record.study) == ("link", run_id, "another")

    client = MlflowClient(uri)

    def links() -> list[Run]:
        runs = client.search_runs([study_run.experiment_id])
        return [run for run in runs if run.data.tags["orchestrator.kind"] == "link"]

    name = trial.name
    for _ in range(2):
        sync_links(study_run, {name: trial}, {name: record})
        (link,) = links()
        assert link.info.status == "FINISHED"
        assert link.data.metrics["val/miou"] == 0.5
        assert f"/runs/{run_id}" in link.data.tags["mlflow.note.content"]
        assert link.data.tags["mlflow.parentRunId"] == study_run.parent_id
    # It has the figures that a later evaluation adds, and those that it changes.
    for miou in (0.6, 0.4):
        study_run.store.log_metrics(run_id, {"eval/flip/miou": miou}, step=0)
        sync_links(study_run, {name: trial}, {name: study_run.store.trial_run(run_id)})
        (refreshed,) = links()
        assert refreshed.info.run_id == link.info.run_id
        assert refreshed.info.status == "FINISHED"
        assert refreshed.data.metrics["eval/flip/miou"] == miou
    # A link is no second record of the training.
    assert len(take_snapshot(study_run.store).by_identity([trial.identity])[trial.identity]) == 1
    client.delete_run(run_id)
    assert decided(study_run, trial).state == "missing"
    sync_links(study_run, {name: trial}, {})
    assert links() == []


def test_the_figures_are_those_of_the_last_checkpoint(
    study_run: StudyRun, trial: ResolvedTrial
) -> None:
    """Of the epoch that was trained twice, the second time with another result."""
    run_id = study_run.begin_trial(trial, None, None)
    study_run.log_epoch(run_id, 1, {"train/loss": 1.0, "val/miou": 0.5, "val/iou/bus & tram": 0.1})
    kept = {"epoch": 1, "train/loss": 1.0, "val/miou": 0.5, "val/iou/bus & tram": 0.1}
    history = partial(study_run.store.client.get_metric_history, run_id, "val/miou")
    study_run.confirm_epoch(run_id, {**kept, "seconds": 7.0, "val/boundary_f": float("nan")})
    assert [entry.value for entry in history()] == [0.5]
    study_run.confirm_epoch(run_id, {**kept, "val/miou": 0.4})
    assert [(entry.step, entry.value) for entry in history()] == [(1, 0.5), (1, 0.4)]
    assert study_run.store.trial_run(run_id).metrics["val/miou"] == 0.4


def test_values_that_are_not_finite_are_left_out(study_run: StudyRun, trial: ResolvedTrial) -> None:
    run_id = study_run.begin_trial(trial, None, None)
    study_run.log_epoch(run_id, 1, {"train/loss": float("nan"), "val/miou": 0.5})
    metrics = study_run.store.trial_run(run_id).metrics
    assert "train/loss" not in metrics
    assert metrics["val/miou"] == 0.5


def test_nothing_stays_running(
    study_run: StudyRun, trial: ResolvedTrial, uri: str, study: Study
) -> None:
    run_id = study_run.begin_trial(trial, None, None)
    study_run.start_trial(run_id, trial.code)
    study_run.close("KILLED")
    client = MlflowClient(uri)
    run = client.get_run(run_id)
    assert run.info.status == "KILLED"
    assert "run it again" in run.data.tags["mlflow.note.content"]
    assert client.get_run(study_run.parent_id).info.status == "KILLED"
    names = {artifact.path for artifact in client.list_artifacts(study_run.parent_id)}
    assert names == {"study.yaml", "study.resolved.yaml"}


def test_what_a_dead_process_left_is_closed_and_the_parent_is_kept(
    study_run: StudyRun, trial: ResolvedTrial, uri: str, study: Study, tmp_path: Path
) -> None:
    run_id = study_run.begin_trial(trial, None, None)
    study_run.start_trial(run_id, trial.code)
    MlflowClient(uri).set_tag(study_run.parent_id, "orchestrator.reason", "its process ended")
    again = StudyRun.open(study_run.store, study)  # its owner, this process, is not waited for
    assert again.parent_id == study_run.parent_id
    assert "orchestrator.reason" not in MlflowClient(uri).get_run(again.parent_id).data.tags
    assert again.store.trial_run(run_id).status == "KILLED"
    assert decided(again, trial).state == "interrupted"
    again.close("FINISHED")


def test_a_study_at_work_elsewhere_is_refused(
    study_run: StudyRun, uri: str, study: Study, tmp_path: Path
) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        created = int(psutil.Process(process.pid).create_time())
        owner = Owner(Owner.this_process().host, process.pid, created)
        client = MlflowClient(uri)
        client.set_tag(study_run.parent_id, "orchestrator.owner", str(owner))
        with pytest.raises(TrackingError, match=rf"being run by process {process.pid} on"):
            StudyRun.open(study_run.store, study)
    finally:
        process.communicate(b"\n")
    StudyRun.open(study_run.store, study)


def test_only_what_the_store_says_is_gone_counts_as_gone(
    study_run: StudyRun, trial: ResolvedTrial, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = study_run.begin_trial(trial, None, None)
    store = study_run.store
    assert store.exists(run_id)
    assert not store.exists("0" * 32)

    def away(run_id: str) -> Run:
        raise MlflowException("the server is away for a moment", TEMPORARILY_UNAVAILABLE)

    with monkeypatch.context() as patched:
        patched.setattr(store.client, "get_run", away)
        assert store.exists(run_id)
    MlflowClient(uri).delete_run(run_id)
    assert not store.exists(run_id)


@pytest.mark.parametrize("before", [False, True])
def test_an_evaluation_that_was_cut_short_is_not_done(
    study_run: StudyRun,
    trial: ResolvedTrial,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: bool,
) -> None:
    """Killed between its writes; also where the same name was evaluated before in another way."""
    run_id, store = finish(study_run, trial), study_run.store
    files = tmp_path / "files"
    files.mkdir()
    (files / "counts.arrow").write_text("counts")
    if before:
        store.log_evaluation(run_id, "flip", {"miou": 0.4}, {"protocol": "old"}, files)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(store.client, "log_artifacts", killed)
        with pytest.raises(KeyboardInterrupt):
            store.log_evaluation(run_id, "flip", {"miou": 0.5}, {"protocol": "new"}, files)
    protocols = [tags.get("protocol") for tags in store.evaluations(run_id).values()]
    assert not {"old", "new"} & set(protocols)
    store.log_evaluation(run_id, "flip", {"miou": 0.5}, {"protocol": "new"}, files)
    assert store.evaluations(run_id) == {"flip": {"protocol": "new"}}
    assert store.trial_run(run_id).metrics["eval/flip/miou"] == 0.5


def test_an_evaluation_that_is_done_again_counts_whatever_the_clock_says(
    study_run: StudyRun, trial: ResolvedTrial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scored anew, in another way, on a machine whose clock is behind."""
    run_id, store = finish(study_run, trial), study_run.store
    files = tmp_path / "files"
    files.mkdir()
    now = time.time()
    for figure, behind in ((0.5, 0), (0.4, 3600), (0.3, 7200)):
        monkeypatch.setattr(time, "time", lambda behind=behind: now - behind)
        store.log_evaluation(run_id, "flip", {"miou": figure}, {"protocol": "a"}, files)
        assert store.trial_run(run_id).metrics["eval/flip/miou"] == figure


ELSEWHERE = Owner("another-host", 12, 34)


def taken_over(study_run: StudyRun) -> str:
    """Another host's process takes the study, and trains its trial; returns the trial's run."""
    client = study_run.store.client
    (run,) = study_run.store.search([study_run.experiment_id], "tags.`orchestrator.kind` = 'trial'")
    tags = {"orchestrator.owner": str(ELSEWHERE), "orchestrator.heartbeat": f"{time.time():.0f}"}
    study_run.store.set_tags(study_run.parent_id, tags)
    client.update_run(run.info.run_id, "RUNNING")
    return str(run.info.run_id)


def test_a_study_that_another_process_has_taken_is_left_to_it(
    store: TrackingStore, study: Study, trial: ResolvedTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "STOP_CHECK_SECONDS", 0.1)
    told: list[str] = []
    study_run = StudyRun.open(store, study, told.append)
    study_run.start_trial(study_run.begin_trial(trial, None, None), trial.code)
    run_id = taken_over(study_run)
    end = time.monotonic() + 20
    while not told and time.monotonic() < end:
        time.sleep(0.05)
    assert len(told) == 1
    assert "process 12 on another-host has taken over study 'ledger test'" in told[0]
    assert "sent no heartbeat" in told[0]
    assert study_run.lost_reason == told[0]
    for write in (
        lambda: study_run.end_trial(run_id, "KILLED"),
        lambda: study_run.log_epoch(run_id, 1, {"val/miou": 0.5}),
        lambda: study_run.describe("another"),
    ):
        with pytest.raises(StudyLockLostError, match="process 12 on another-host"):
            write()
    study_run.close("KILLED")
    assert store.trial_run(run_id).status == "RUNNING"
    assert store.client.get_run(study_run.parent_id).info.status == "RUNNING"
    tags = store.client.get_run(study_run.parent_id).data.tags
    assert tags["orchestrator.owner"] == str(ELSEWHERE)


def test_a_process_that_wakes_writes_nothing_before_it_has_looked(
    store: TrackingStore, study: Study, trial: ResolvedTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that looks has not run yet; the one that writes has."""
    monkeypatch.setattr(lock, "STOP_CHECK_SECONDS", 1000.0)
    study_run = StudyRun.open(store, study)
    run_id = study_run.begin_trial(trial, None, None)
    taken_over(study_run)
    monkeypatch.setattr(lock, "TRUSTED_SECONDS", 0.0)  # it slept for longer
    with pytest.raises(StudyLockLostError):
        study_run.end_trial(run_id, "KILLED")
    study_run.close("KILLED")
    assert store.trial_run(run_id).status == "RUNNING"


def test_a_study_that_has_no_trials_left_is_not_closed_for_another_process(
    store: TrackingStore, study: Study, trial: ResolvedTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "STOP_CHECK_SECONDS", 1000.0)
    study_run = StudyRun.open(store, study)
    finish(study_run, trial)
    store.set_tags(study_run.parent_id, {"orchestrator.owner": str(ELSEWHERE)})
    study_run.close("FINISHED")
    assert store.client.get_run(study_run.parent_id).info.status == "RUNNING"


def test_a_study_that_was_closed_meanwhile_is_not_written_to(
    store: TrackingStore, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another host's command took this process for dead and closed its runs."""
    monkeypatch.setattr(lock, "STOP_CHECK_SECONDS", 0.1)
    told: list[str] = []
    study_run = StudyRun.open(store, study, told.append)
    store.client.set_terminated(study_run.parent_id, "KILLED")
    end = time.monotonic() + 20
    while not told and time.monotonic() < end:
        time.sleep(0.05)
    assert "closed" in told[0]
    study_run.close("FINISHED")
    assert store.client.get_run(study_run.parent_id).info.status == "KILLED"


def test_an_unusable_store_is_named() -> None:
    with pytest.raises(TrackingError, match=r"MLflow at nonsense://x cannot be used"):
        TrackingStore("nonsense://x", None)
