"""A storage directory that is moved keeps its counts, intervals and models."""

import shutil
from pathlib import Path

from mlflow.tracking import MlflowClient

from orchestrator.report.__main__ import main as report
from orchestrator.studies.__main__ import main as studies
from orchestrator.study.load import load_study
from orchestrator.tracking.relocation import current_uri, record_current_paths
from orchestrator.tracking.store import TrackingStore
from orchestrator.tracking.study_run import StudyRun
from tests.support.fabricated_studies import fabricate_study, write_study
from tests.support.finished_run import make_finished_run

TWO_SEEDS = """\
study: moved
compare_to: a
base:
  data: {dataset: DATASET, crop: [32, 32]}
  model: {backbone: dfnet1, channels: 8}
  training: {epochs: 3, precision: fp32}
seeds: [0, 1]
variants: {a: {set: {model: {flows: []}}}, b: {}}
"""


def test_report_of_a_moved_storage_is_the_same(
    tmp_path: Path, small_streets: Path, own_store: Path
) -> None:
    file = fabricate_study(tmp_path, small_streets, TWO_SEEDS)

    def table(storage: Path) -> str:
        out = tmp_path / "report"
        assert report([str(file), "--storage", str(storage), "--out", str(out)]) == 0
        return (out / "table.csv").read_text()

    before = table(own_store)
    assert "interval_low" in before
    moved = tmp_path / "bigger disk" / "storage#1"
    moved.parent.mkdir()
    shutil.move(own_store, moved)
    assert table(moved) == before
    assert not own_store.exists(), "nothing is written to the former path"
    assert list((moved / "artifacts" / "moved").glob("*/artifacts/report/report.html"))


def test_models_of_a_moved_storage_are_found_and_new_runs_are_written_there(
    tmp_path: Path, small_streets: Path, own_store: Path
) -> None:
    run = make_finished_run(own_store, small_streets)
    moved = tmp_path / "moved"
    shutil.move(own_store, moved)
    store = TrackingStore(f"sqlite:///{moved / 'mlflow.db'}", moved / "artifacts")
    for uri in (f"runs:/{run.run_id}/model", f"runs:/{run.run_id}/best"):
        assert store.download(uri, tmp_path / "copies").exists()
    new = store.client.create_run(store.client.get_run(run.run_id).info.experiment_id).info.run_id
    store.log_artifact(new, moved / "study.yaml", "folder")
    assert (moved / "artifacts" / "scored" / new / "artifacts" / "folder" / "study.yaml").exists()
    assert not own_store.exists()

    recorded = store.client.get_run(run.run_id).info.artifact_uri
    assert recorded.startswith(own_store.as_uri())
    assert studies(["relocate", "--storage", str(moved)]) == 0
    info = store.client.get_run(run.run_id).info
    assert info.artifact_uri == recorded.replace(own_store.as_uri(), moved.as_uri())
    model = store.client.get_logged_model(store.model_id(run.run_id))
    assert model.artifact_location.startswith(moved.as_uri())
    assert record_current_paths(moved / "mlflow.db") == 0


def test_other_folders_are_where_they_were_recorded(tmp_path: Path) -> None:
    directory = tmp_path / "artifacts"
    (directory / "study").mkdir(parents=True)
    database = tmp_path / "mlflow.db"
    own = (directory / "study" / "run").as_uri()
    assert current_uri(own, database) == own
    assert current_uri("file:///a/artifacts/b/artifacts/study/run", database) == own
    assert current_uri("/plain/path/artifacts/study/run", database) == own
    for elsewhere in (
        "file:///old/artifacts/another/run",
        "file:///old/study/run",
        "s3://bucket/artifacts/study/run",
    ):
        assert current_uri(elsewhere, database) == elsewhere


def test_folder_that_exists_where_it_was_recorded_is_used(tmp_path: Path) -> None:
    database = tmp_path / "lab" / "mlflow.db"
    (tmp_path / "lab" / "artifacts" / "study").mkdir(parents=True)
    recorded = tmp_path / "user" / "artifacts" / "study" / "run"
    recorded.mkdir(parents=True)
    assert current_uri(recorded.as_uri(), database) == recorded.as_uri()
    # A copy of a storage keeps to its own folders.
    (tmp_path / "user" / "mlflow.db").touch()
    own = tmp_path / "lab" / "artifacts" / "study" / "run"
    assert current_uri(recorded.as_uri(), database) == own.as_uri()


def test_ledger_that_is_used_with_two_storages_keeps_its_artifacts(
    tmp_path: Path, small_streets: Path
) -> None:
    study = load_study(write_study(tmp_path, small_streets, TWO_SEEDS))
    ledger = f"sqlite:///{tmp_path / 'lab' / 'mlflow.db'}"
    first = StudyRun.open(TrackingStore(ledger, tmp_path / "user" / "artifacts"), study)
    first.close("FINISHED")
    second = StudyRun.open(TrackingStore(ledger, tmp_path / "lab" / "artifacts"), study)
    second.store.log_artifact(second.parent_id, tmp_path / "study.yaml", "files")
    second.close("FINISHED")
    assert not (tmp_path / "lab" / "artifacts" / "moved").exists()
    assert list((tmp_path / "user" / "artifacts" / "moved").glob("*/artifacts/files/study.yaml"))


def test_stores_with_studies_of_one_name_keep_their_own_artifacts(
    tmp_path: Path, small_streets: Path, own_store: Path
) -> None:
    """An MLflow client of another storage reads its own files, also in a process that has opened
    a storage of ours with a study of that name."""
    run = make_finished_run(own_store, small_streets)
    other = tmp_path / "other"
    shutil.copytree(own_store, other)
    TrackingStore(f"sqlite:///{other / 'mlflow.db'}", other / "artifacts")
    shutil.rmtree(other / "artifacts" / "scored")
    (other / "artifacts" / "scored").mkdir()
    client = MlflowClient(f"sqlite:///{own_store / 'mlflow.db'}")
    assert client.list_artifacts(run.run_id)
