"""A finished run and an empty tracking store, one of each for all tests of a process."""

import shutil
from pathlib import Path

import pytest

from orchestrator.tracking.store import TrackingStore
from tests.support.finished_run import FinishedRun, make_finished_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, small_streets: Path) -> FinishedRun:
    return make_finished_run(tmp_path_factory.mktemp("storage"), small_streets)


@pytest.fixture(scope="session")
def empty_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without a study; making one takes MLflow seconds."""
    file = tmp_path_factory.mktemp("ledger") / "mlflow.db"
    TrackingStore(f"sqlite:///{file}", None)
    return file


@pytest.fixture
def own_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, empty_ledger: Path) -> None:
    """`storage/` in the test's own directory, with an empty ledger."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "storage").mkdir()
    shutil.copy(empty_ledger, tmp_path / "storage")
