"""The tracking store: existing runs and unusable stores."""

import http.server
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.tracking import MlflowClient

from orchestrator.study.resolved import ResolvedTrial
from orchestrator.tracking.evaluations import log_evaluation
from orchestrator.tracking.store import TrackingError, TrackingStore, is_store_error
from orchestrator.tracking.study_run import StudyRun
from tests.support.servers import serving


def test_run_is_missing_only_if_the_store_says_so(
    study_run: StudyRun, trial: ResolvedTrial, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = study_run.begin_trial(trial, None, None)
    store = study_run.store
    assert store.exists(run_id)
    assert not store.exists("0" * 32)

    def raise_outage(run_id: str) -> Run:
        raise MlflowException("the server is away for a moment", TEMPORARILY_UNAVAILABLE)

    with monkeypatch.context() as patched:
        patched.setattr(store.client, "get_run", raise_outage)
        assert store.exists(run_id)
    MlflowClient(uri).delete_run(run_id)
    assert not store.exists(run_id)


def test_missing_file_of_a_run_is_named_in_one_sentence(
    study_run: StudyRun, trial: ResolvedTrial, tmp_path: Path
) -> None:
    run_id = study_run.begin_trial(trial, None, None)
    with pytest.raises(TrackingError) as caught:
        study_run.store.download_file(run_id, "counts.arrow", tmp_path)
    assert str(caught.value).startswith(f"runs:/{run_id}/counts.arrow: not in MLflow at ")
    assert str(caught.value).endswith(" (No such artifact: 'counts.arrow'); restore the file")


def test_unusable_store_is_named() -> None:
    with pytest.raises(TrackingError, match=r"MLflow at nonsense://x cannot be used"):
        TrackingStore("nonsense://x", None)


def test_password_of_the_tracking_server_is_not_shown() -> None:
    store = object.__new__(TrackingStore)
    store.replica = None
    store.tracking_uri = "https://me:hush@mlflow.lab:443"
    assert store.display_uri == "https://me@mlflow.lab:443"
    assert store.viewing_instructions("1", "ab").splitlines() == [
        "table in MLflow:  https://me@mlflow.lab:443/#/experiments/1/runs/ab"
        "/artifacts/report/report.html?workflowType=machine_learning",
        "trials in MLflow: https://me@mlflow.lab:443/#/experiments/1/runs"
        "?viewStateShareKey=study&workflowType=machine_learning",
    ]
    store.tracking_uri = "sqlite:////storage/mlflow.db"
    assert store.display_uri == store.tracking_uri


class _Refusing(http.server.BaseHTTPRequestHandler):
    """An object store that lets nobody write."""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # botocore's own
def test_refused_upload_is_an_error_of_the_store(
    store: TrackingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "counts.arrow").write_text("counts")
    store.make_experiment("in a bucket", "s3://bucket/artifacts")
    (experiment,) = store.experiment_names().keys() - {"0"}
    run_id = store.client.create_run(experiment).info.run_id
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "test")
    with serving(_Refusing) as url:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", url)
        message = r"cannot be written \(An error occurred \(AccessDenied\) .*\); check that you may"
        with pytest.raises(TrackingError, match=message), store.readable_write_errors():
            log_evaluation(store, run_id, "flip", {}, {}, tmp_path / "files", of_model=False)
        with pytest.raises(Exception, match="AccessDenied") as caught:
            store.log_artifact(run_id, tmp_path / "files")
    assert is_store_error(caught.value)
    assert not is_store_error(ValueError("a fault of this project"))
