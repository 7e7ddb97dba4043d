"""The lock of a study: one process at a time writes its runs."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from mlflow.tracking import MlflowClient

from orchestrator.study.resolve import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.tracking import lock
from orchestrator.tracking.claims import Owner
from orchestrator.tracking.lock import StudyLockLostError
from orchestrator.tracking.store import TrackingError, TrackingStore
from orchestrator.tracking.study_run import StudyRun
from tests.support.tracked_trials import finish


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
