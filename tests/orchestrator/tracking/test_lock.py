"""The lock of a study: only one process at a time writes its runs."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from orchestrator.studies.__main__ import main
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.tracking import liveness, lock
from orchestrator.tracking import tags as tag
from orchestrator.tracking.claims import Owner
from orchestrator.tracking.lock import StudyLockedError, StudyLockLostError
from orchestrator.tracking.queries import read_snapshot, shared_file_warning
from orchestrator.tracking.store import TrackingStore
from orchestrator.tracking.study_run import StudyRun
from tests.support import ROOT
from tests.support.tracked_trials import finish

OTHER_OWNER = Owner("another-host", 12, 34)


def leave_running(store: TrackingStore, study: Study, **tags: str) -> str:
    """Create the study's run as another process would; return its id. tags: by constant's name."""
    study_run = StudyRun.open(store, study)
    study_run.close("FINISHED")
    client = store.client
    client.update_run(study_run.parent_id, "RUNNING")
    values = {tag.OWNER: str(OTHER_OWNER), tag.HEARTBEAT: "1000", tag.PROCESS_LOCK: ""}
    values |= {getattr(tag, name): value for name, value in tags.items()}
    store.set_tags(study_run.parent_id, values)
    return study_run.parent_id


def test_live_study_is_refused_at_its_next_heartbeat(
    store: TrackingStore, study: Study, uri: str
) -> None:
    """However wrong the time of its heartbeat is."""
    parent_id = leave_running(store, study)
    messages: list[str] = []

    def beat(message: str) -> None:
        messages.append(message)
        MlflowClient(uri).set_tag(parent_id, tag.HEARTBEAT, "1001")

    with pytest.raises(
        StudyLockedError, match=r"is being run by process 12 on .* `orchestrator studies stop"
    ):
        StudyRun.open(store, study, say=beat)
    (message,) = messages
    assert "waiting for its next heartbeat" in message
    run = store.client.get_run(parent_id)
    assert run.info.status == "RUNNING"
    assert run.data.tags[tag.OWNER] == str(OTHER_OWNER)
    assert not [key for key in run.data.tags if key.startswith(tag.LOCK_REQUEST)]


def test_silent_study_is_taken_over_and_the_command_says_so(
    store: TrackingStore, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its heartbeat has the current time, so a clock would not find it silent."""
    monkeypatch.setattr(liveness, "EXPIRED_SECONDS", 0.5)
    leave_running(store, study, HEARTBEAT=f"{time.time():.0f}")
    messages: list[str] = []
    began = time.monotonic()
    study_run = StudyRun.open(store, study, say=messages.append)
    assert time.monotonic() - began > 0.5
    study_run.close("FINISHED")
    waiting, takeover = messages
    assert "waiting for its next heartbeat" in waiting
    assert "taking over study 'tracking test': process 12 on another-host has sent" in takeover


def test_study_of_a_killed_process_of_this_machine_is_taken_over_at_once(
    store: TrackingStore, study: Study, tmp_path: Path
) -> None:
    script = "import sys, os; from pathlib import Path; "
    script += "from orchestrator.tracking.process_lock import ProcessLock; "
    script += "lock = ProcessLock(Path(sys.argv[1])); print(lock.text, flush=True); os.abort()"
    text = subprocess.run(
        [sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ).stdout.strip()
    leave_running(store, study, PROCESS_LOCK=text, HEARTBEAT=f"{time.time():.0f}")
    messages: list[str] = []
    StudyRun.open(store, study, say=messages.append).close("FINISHED")
    assert messages == [
        "taking over study 'tracking test': process 12 on another-host ended without closing it"
    ]


def test_request_of_a_dead_process_delays_but_does_not_block(
    store: TrackingStore, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_REQUEST_SECONDS", 1.0)
    study_run = StudyRun.open(store, study)
    study_run.close("FINISHED")
    key = f"{tag.LOCK_REQUEST}000000000000"
    store.set_tags(study_run.parent_id, {key: f"{OTHER_OWNER} "})
    StudyRun.open(store, study).close("FINISHED")
    assert key not in store.client.get_run(study_run.parent_id).data.tags


def test_reading_a_study_changes_nothing(
    store: TrackingStore, study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A heartbeat that seems to be days old: the clock of one of the machines may be wrong."""
    parent_id = leave_running(store, study)
    before = store.client.get_run(parent_id).to_dictionary()
    storage = ["--storage", str(tmp_path)]
    assert main(["list", *storage]) == 0
    assert main(["status", "tracking test", *storage]) == 0
    output = capsys.readouterr().out
    assert "silent" in output
    assert "process 12 on another-host, no heartbeat for" in output
    assert store.client.get_run(parent_id).to_dictionary() == before


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
    assert "process 12 on another-host has taken over study 'tracking test'" in messages[0]
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
    assert shared_file_warning(store, read_snapshot(store)) == ""
    tags = {"orchestrator.owner": str(OTHER_OWNER), "orchestrator.heartbeat": f"{time.time():.0f}"}
    store.set_tags(study_run.parent_id, tags)
    message = shared_file_warning(store, read_snapshot(store))
    assert message.startswith("other hosts write to sqlite:///")
    assert "study 'tracking test' on another-host" in message
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


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")
def test_running_study_of_another_container_is_shown_as_running(
    store: TrackingStore, study: Study, tmp_path: Path
) -> None:
    """The other container has other process ids, and the same host name."""
    study_run = StudyRun.open(store, study)
    before = store.client.get_run(study_run.parent_id).to_dictionary()
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-m"]
    command += ["orchestrator.studies", "list", "--storage", str(tmp_path)]
    listing = subprocess.check_output(command, text=True, cwd=ROOT)
    assert "tracking test  running" in listing
    after = store.client.get_run(study_run.parent_id).to_dictionary()
    for run in (before, after):
        run["data"]["tags"].pop(tag.HEARTBEAT)  # the study renews it meanwhile
    assert after == before
    study_run.check_lock()
    study_run.close("FINISHED")
