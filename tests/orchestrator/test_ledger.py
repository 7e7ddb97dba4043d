"""The ledger against a real MLflow store in SQLite."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from mlflow.tracking import MlflowClient

from orchestrator.cells import Cell, resolve_cells
from orchestrator.ledger import Ledger, LedgerError, StudyRun
from orchestrator.ownership import Owner
from orchestrator.reconciliation import standing
from orchestrator.study import Plan
from orchestrator.study_file import load_study

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
def plan(tmp_path: Path, small_streets: Path) -> Plan:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("DATASET", str(small_streets)))
    return load_study(path)


@pytest.fixture
def cell(plan: Plan, tmp_path: Path) -> Cell:
    return resolve_cells(plan.trials, "cpu", tmp_path)[0]


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its tables made, which takes MLflow seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    Ledger(f"sqlite:///{path}", None)
    return path


@pytest.fixture
def uri(tmp_path: Path, empty_store: Path) -> str:
    return f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}"


@pytest.fixture
def ledger(uri: str, tmp_path: Path) -> Ledger:
    return Ledger(uri, tmp_path / "artifacts")


@pytest.fixture
def study_run(ledger: Ledger, plan: Plan) -> Iterator[StudyRun]:
    study_run = StudyRun.open(ledger, plan)
    yield study_run
    study_run.close("FINISHED")


def test_a_trial_from_beginning_to_end(study_run: StudyRun, cell: Cell, uri: str) -> None:
    run_id = study_run.begin_trial(cell, "abc123", None)
    client = MlflowClient(uri)
    assert client.get_run(run_id).info.status == "SCHEDULED"
    study_run.start_trial(run_id, cell.code)
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
    assert run.data.tags["orchestrator.identity"] == cell.identity
    assert run.data.tags["orchestrator.data"] == cell.dataset.manifest.fingerprint
    assert run.data.params["model.backbone"] == "dfnet1"
    assert run.data.params["training.loss.threshold"] == "0.7"
    assert run.data.metrics["model/gflops"] == pytest.approx(cell.cost.gflops)
    assert run.data.metrics["val/iou/traffic-sign-old"] == 0.5
    history = client.get_metric_history(run_id, "val/miou")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.1), (2, 0.2)]

    record = study_run.ledger.find([cell], "ledger test")[cell.identity]
    assert (record.run_id, record.epoch, record.status) == (run_id, 2, "FINISHED")
    assert standing(record, cell.code) == "finished"
    assert standing(record, "other code") == "stale"


def test_an_unfinished_trial_is_reopened(study_run: StudyRun, cell: Cell) -> None:
    run_id = study_run.begin_trial(cell, None, None)
    study_run.start_trial(run_id, cell.code)
    study_run.log_epoch(run_id, 1, {"train/loss": 2.0})
    study_run.end_trial(run_id, "FAILED", "out of luck")
    record = study_run.ledger.find([cell], "ledger test")[cell.identity]
    assert standing(record, cell.code) == "failed"
    assert study_run.begin_trial(cell, None, record) == run_id
    assert study_run.logged_epochs(record) == {1}
    assert study_run.ledger.record(run_id).status == "SCHEDULED"


def test_a_finished_run_comes_before_an_unfinished_one(study_run: StudyRun, cell: Cell) -> None:
    finished = study_run.begin_trial(cell, None, None)
    study_run.end_trial(finished, "FINISHED")
    study_run.end_trial(study_run.begin_trial(cell, None, None), "KILLED")
    assert study_run.ledger.find([cell], "ledger test")[cell.identity].run_id == finished


def test_a_deleted_run_is_missing(study_run: StudyRun, cell: Cell, uri: str) -> None:
    run_id = study_run.begin_trial(cell, None, None)
    study_run.end_trial(run_id, "FINISHED")
    MlflowClient(uri).delete_run(run_id)
    assert study_run.ledger.find([cell], "ledger test") == {}


def test_finished_trials_of_other_studies_count_unfinished_ones_do_not(
    study_run: StudyRun, cell: Cell, plan: Plan, uri: str, tmp_path: Path
) -> None:
    other_file = tmp_path / "other.yaml"
    other_file.write_text(plan.text.replace("study: ledger test", "study: another"))
    other = StudyRun.open(study_run.ledger, load_study(other_file))
    run_id = other.begin_trial(cell, None, None)
    assert study_run.ledger.find([cell], "ledger test") == {}
    other.end_trial(run_id, "FINISHED")
    other.close("FINISHED")
    found = study_run.ledger.find([cell], "ledger test")[cell.identity]
    assert (found.run_id, found.study) == (run_id, "another")


def test_values_that_are_not_finite_are_left_out(study_run: StudyRun, cell: Cell) -> None:
    run_id = study_run.begin_trial(cell, None, None)
    study_run.log_epoch(run_id, 1, {"train/loss": float("nan"), "val/miou": 0.5})
    metrics = study_run.ledger.record(run_id).metrics
    assert "train/loss" not in metrics
    assert metrics["val/miou"] == 0.5


def test_nothing_stays_running(study_run: StudyRun, cell: Cell, uri: str, plan: Plan) -> None:
    run_id = study_run.begin_trial(cell, None, None)
    study_run.start_trial(run_id, cell.code)
    study_run.log_documents({"table.md": "# table\n"})
    study_run.close("KILLED")
    client = MlflowClient(uri)
    run = client.get_run(run_id)
    assert run.info.status == "KILLED"
    assert "run it again" in run.data.tags["mlflow.note.content"]
    assert client.get_run(study_run.parent_id).info.status == "KILLED"
    names = {artifact.path for artifact in client.list_artifacts(study_run.parent_id)}
    assert names == {"study.yaml", "table.md"}


def test_what_a_dead_process_left_is_closed_and_the_parent_is_kept(
    study_run: StudyRun, cell: Cell, uri: str, plan: Plan, tmp_path: Path
) -> None:
    run_id = study_run.begin_trial(cell, None, None)
    study_run.start_trial(run_id, cell.code)
    again = StudyRun.open(study_run.ledger, plan)  # its owner, this process, is not waited for
    assert again.parent_id == study_run.parent_id
    record = again.ledger.record(run_id)
    assert (record.status, standing(record, cell.code)) == ("KILLED", "to resume")
    again.close("FINISHED")


def test_a_study_at_work_elsewhere_is_refused(
    study_run: StudyRun, uri: str, plan: Plan, tmp_path: Path
) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        created = int(psutil.Process(process.pid).create_time())
        owner = Owner(Owner.this_process().host, process.pid, created)
        client = MlflowClient(uri)
        client.set_tag(study_run.parent_id, "orchestrator.owner", str(owner))
        with pytest.raises(LedgerError, match=rf"being run by process {process.pid} on"):
            StudyRun.open(study_run.ledger, plan)
    finally:
        process.communicate(b"\n")
    StudyRun.open(study_run.ledger, plan)


def test_an_unusable_store_is_named() -> None:
    with pytest.raises(LedgerError, match=r"MLflow at nonsense://x cannot be used"):
        Ledger("nonsense://x", None)
