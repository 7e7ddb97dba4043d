"""The store itself: what exists, evaluations, and what cannot be used."""

import time
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.tracking import MlflowClient

from orchestrator.storage import Storage
from orchestrator.study.resolve import ResolvedTrial
from orchestrator.tracking.store import TrackingError, TrackingStore, open_store
from orchestrator.tracking.study_run import StudyRun
from tests.support.tracked_trials import finish


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


def test_an_unusable_store_is_named() -> None:
    with pytest.raises(TrackingError, match=r"MLflow at nonsense://x cannot be used"):
        TrackingStore("nonsense://x", None)


def test_a_bucket_holds_no_ledger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    storage = Storage.parse("s3://bucket/x")
    with pytest.raises(TrackingError, match="set MLFLOW_TRACKING_URI"):
        open_store(storage)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'file.db'}")
    with pytest.raises(TrackingError, match="set MLFLOW_TRACKING_URI"):
        open_store(storage)  # a file of this machine is no server


def test_a_password_of_the_tracking_server_is_not_shown() -> None:
    store = object.__new__(TrackingStore)
    store.tracking_uri = "https://me:hush@mlflow.lab:443"
    assert store.display_uri == "https://me@mlflow.lab:443"
    assert "hush" not in store.viewing_instructions("1")
    store.tracking_uri = "sqlite:////storage/mlflow.db"
    assert store.display_uri == store.tracking_uri
