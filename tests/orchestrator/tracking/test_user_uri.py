"""The user's choice of a tracking store, and MLflow's global tracking URI."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking._tracking_service import utils as service

from orchestrator.study.resolved import ResolvedTrial
from orchestrator.tracking.models import register_best
from orchestrator.tracking.open_store import tracking_uri
from orchestrator.tracking.store import TrackingStore
from orchestrator.tracking.study_run import StudyRun
from orchestrator.tracking.user_uri import global_uri, ignored_uri
from tests.support.tracked_trials import finish

VARIABLE = "MLFLOW_TRACKING_URI"


@pytest.fixture(autouse=True)
def own_global_uri(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(VARIABLE, "")  # so that it is restored although MLflow sets it
    monkeypatch.delenv(VARIABLE)
    yield
    service._tracking_uri = None


def test_uri_that_mlflow_exports_does_not_choose_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = f"sqlite:///{tmp_path / 'mlflow.db'}"
    mlflow.set_tracking_uri("http://users:5000")
    assert os.environ[VARIABLE] == "http://users:5000"
    assert (tracking_uri(tmp_path), ignored_uri()) == (file, "http://users:5000")
    monkeypatch.setenv(VARIABLE, "http://chosen:5000")
    assert (tracking_uri(tmp_path), ignored_uri()) == ("http://chosen:5000", None)


@pytest.mark.slow
@pytest.mark.parametrize("uri", ["http://first:5000", "http://other:5000"])
def test_variable_at_the_start_of_the_process_chooses_the_store(uri: str) -> None:
    """MLflow's global URI is the same, or another one."""
    code = (
        f"import mlflow; mlflow.set_tracking_uri({uri!r})\n"
        "from orchestrator.tracking.user_uri import chosen_uri; print(chosen_uri())"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, VARIABLE: "http://first:5000"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout == "http://first:5000\n"


@pytest.mark.parametrize("variable", [None, "http://theirs:5000"])
@pytest.mark.parametrize("uri", [None, "http://users:5000"])
def test_global_uri_is_restored(
    uri: str | None, variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    service._tracking_uri = uri
    if variable is not None:
        monkeypatch.setenv(VARIABLE, variable)
    with global_uri("http://own:5000"):
        assert mlflow.get_tracking_uri() == "http://own:5000"
    assert (service._tracking_uri, os.environ.get(VARIABLE)) == (uri, variable)


def test_store_does_not_use_the_users_global_uri(
    study_run: StudyRun, trial: ResolvedTrial, store: TrackingStore, tmp_path: Path
) -> None:
    """Registering a model and resolving its registered name are where MLflow has no argument."""
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'users.db'}")
    run_id = finish(study_run, trial)
    (tmp_path / "weights").write_text("weights")
    client = store.client
    model = client.create_logged_model(study_run.experiment_id, "model", source_run_id=run_id)
    client.log_model_artifacts(model.model_id, str(tmp_path / "weights"))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [mlflow.entities.LoggedModelOutput(model.model_id, step=1)])
    name = register_best(store, "tiny", run_id)
    assert name == "models:/tiny@best"
    store.download(name, tmp_path / "copy")
    assert mlflow.get_tracking_uri() == f"sqlite:///{tmp_path / 'users.db'}"
    assert not (tmp_path / "users.db").exists()
