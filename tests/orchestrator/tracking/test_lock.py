"""The lock of a study: only one process at a time writes its runs."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from mlflow.tracking import MlflowClient

from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.tracking import lock
from orchestrator.tracking.claims import Owner
from orchestrator.tracking.lock import StudyLockLostError
from orchestrator.tracking.queries import shared_file_warning, take_snapshot
from orchestrator.tracking.store import TrackingError, TrackingStore
from orchestrator.tracking.study_run import StudyRun
from tests.support.tracked_trials import finish


def test_study_run_by_a_live_process_is_rejected(
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


OTHER_OWNER = Owner("another-host", 12, 34)


def take_over(study_run: StudyRun) -> str:
    """Let a process on another host take over the study and its trial; return the trial's run."""
    client = study_run.store.client
    (run,) = study_run.store.search([study_run.experiment_id], "tags.`orchestrator.kind` = 'trial'")
    tags = {"orchestrator.owner": str(OTHER_OWNER), "orchestrator.heartbeat": f"{time.time():.0f}"}
    study_run.store.set_tags(study_run.parent_id, tags)
    client.update_run(run.info.run_id, "RUNNING")
    return str(run.info.run_id)


def test_study_taken_over_by_another_process_is_not_written(
    store: TrackingStore, study: Study, trial: ResolvedTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "STOP_CHECK_SECONDS", 0.1)
    messages: list[str] = []
    study_run = StudyRun.open(store, study, messages.append)
    study_run.start_trial(study_run.begin_trial(trial, None, None), trial.code)
    run_id = take_over(study_run)
    deadline = time.monotonic() + 20
    while not messages and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(messages) == 1
    assert "process 12 on another-host has taken over study 'ledger test'" in messages[0]
    assert "sent no heartbeat" in messages[0]
    assert study_run.lost_reason == messages[0]
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
    assert tags["orchestrator.owner"] == str(OTHER_OWNER)


def test_file_to_which_another_host_writes_is_reported(study_run: StudyRun) -> None:
    store = study_run.store
    assert shared_file_warning(store, take_snapshot(store)) == ""
    tags = {"orchestrator.owner": str(OTHER_OWNER), "orchestrator.heartbeat": f"{time.time():.0f}"}
    store.set_tags(study_run.parent_id, tags)
    message = shared_file_warning(store, take_snapshot(store))
    assert message.startswith("other hosts write to sqlite:///")
    assert "study 'ledger test' on another-host" in message
    assert "MLFLOW_TRACKING_URI" in message


def test_suspended_process_checks_the_lock_before_it_writes(
    store: TrackingStore, study: Study, trial: ResolvedTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writing thread runs before the thread that checks the lock."""
    monkeypatch.setattr(lock, "STOP_CHECK_SECONDS", 1000.0)
    study_run = StudyRun.open(store, study)
    run_id = study_run.begin_trial(trial, None, None)
    take_over(study_run)
    monkeypatch.setattr(lock, "TRUSTED_SECONDS", 0.0)  # the process was suspended for longer
    with pytest.raises(StudyLockLostError):
        study_run.end_trial(run_id, "KILLED")
    study_run.close("KILLED")
    assert store.trial_run(run_id).status == "RUNNING"


def test_finished_study_owned_by_another_process_is_not_closed(
    store: TrackingStore, study: Study, trial: ResolvedTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "STOP_CHECK_SECONDS", 1000.0)
    study_run = StudyRun.open(store, study)
    finish(study_run, trial)
    store.set_tags(study_run.parent_id, {"orchestrator.owner": str(OTHER_OWNER)})
    study_run.close("FINISHED")
    assert store.client.get_run(study_run.parent_id).info.status == "RUNNING"


def test_study_closed_by_another_process_is_not_written(
    store: TrackingStore, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command on another host assumed that this process was dead and closed its runs."""
    monkeypatch.setattr(lock, "STOP_CHECK_SECONDS", 0.1)
    messages: list[str] = []
    study_run = StudyRun.open(store, study, messages.append)
    store.client.set_terminated(study_run.parent_id, "KILLED")
    deadline = time.monotonic() + 20
    while not messages and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "closed" in messages[0]
    study_run.close("FINISHED")
    assert store.client.get_run(study_run.parent_id).info.status == "KILLED"
