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
from orchestrator.ledger import Ledger, LedgerError, standing
from orchestrator.ownership import Owner
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
def ledger(uri: str, tmp_path: Path, plan: Plan) -> Iterator[Ledger]:
    ledger = Ledger(uri, tmp_path / "artifacts")
    ledger.open_study(plan)
    yield ledger
    ledger.close_study("FINISHED", {})


def test_a_trial_from_beginning_to_end(ledger: Ledger, cell: Cell, uri: str) -> None:
    run_id = ledger.begin_trial(cell, "abc123", None)
    client = MlflowClient(uri)
    assert client.get_run(run_id).info.status == "SCHEDULED"
    ledger.start_trial(run_id, cell.code)
    assert client.get_run(run_id).info.status == "RUNNING"
    for epoch in (1, 2):
        ledger.log_epoch(run_id, epoch, {"val/miou": 0.1 * epoch, "val/iou/traffic sign, old": 0.5})
    ledger.end_trial(run_id, "FINISHED")

    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == ledger.parent_id
    assert run.data.tags["mlflow.source.git.commit"] == "abc123"
    assert run.data.tags["orchestrator.identity"] == cell.identity
    assert run.data.tags["orchestrator.data"] == cell.dataset.manifest.fingerprint
    assert run.data.params["model.backbone"] == "dfnet1"
    assert run.data.params["training.loss.threshold"] == "0.7"
    assert run.data.metrics["model/gflops"] == pytest.approx(cell.cost.gflops)
    assert run.data.metrics["val/iou/traffic-sign-old"] == 0.5
    history = client.get_metric_history(run_id, "val/miou")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.1), (2, 0.2)]

    record = ledger.find([cell])[cell.identity]
    assert (record.run_id, record.epoch, record.status) == (run_id, 2, "FINISHED")
    assert standing(record, cell.code) == "finished"
    assert standing(record, "other code") == "stale"


def test_an_unfinished_trial_is_reopened(ledger: Ledger, cell: Cell) -> None:
    run_id = ledger.begin_trial(cell, None, None)
    ledger.start_trial(run_id, cell.code)
    ledger.log_epoch(run_id, 1, {"train/loss": 2.0})
    ledger.end_trial(run_id, "FAILED", "out of luck")
    record = ledger.find([cell])[cell.identity]
    assert standing(record, cell.code) == "failed"
    assert ledger.begin_trial(cell, None, record) == run_id
    assert ledger.logged_epochs(record) == {1}
    assert ledger.record(run_id).status == "SCHEDULED"


def test_a_finished_run_comes_before_an_unfinished_one(ledger: Ledger, cell: Cell) -> None:
    finished = ledger.begin_trial(cell, None, None)
    ledger.end_trial(finished, "FINISHED")
    ledger.end_trial(ledger.begin_trial(cell, None, None), "KILLED")
    assert ledger.find([cell])[cell.identity].run_id == finished


def test_a_deleted_run_is_missing(ledger: Ledger, cell: Cell, uri: str) -> None:
    run_id = ledger.begin_trial(cell, None, None)
    ledger.end_trial(run_id, "FINISHED")
    MlflowClient(uri).delete_run(run_id)
    assert ledger.find([cell]) == {}


def test_finished_trials_of_other_studies_count_unfinished_ones_do_not(
    ledger: Ledger, cell: Cell, plan: Plan, uri: str, tmp_path: Path
) -> None:
    other_file = tmp_path / "other.yaml"
    other_file.write_text(plan.text.replace("study: ledger test", "study: another"))
    other = Ledger(uri, tmp_path / "artifacts")
    other.open_study(load_study(other_file))
    run_id = other.begin_trial(cell, None, None)
    assert ledger.find([cell]) == {}
    other.end_trial(run_id, "FINISHED")
    other.close_study("FINISHED", {})
    found = ledger.find([cell])[cell.identity]
    assert (found.run_id, found.study) == (run_id, "another")


def test_values_that_are_not_finite_are_left_out(ledger: Ledger, cell: Cell) -> None:
    run_id = ledger.begin_trial(cell, None, None)
    ledger.log_epoch(run_id, 1, {"train/loss": float("nan"), "val/miou": 0.5})
    metrics = ledger.record(run_id).metrics
    assert "train/loss" not in metrics
    assert metrics["val/miou"] == 0.5


def test_nothing_stays_running(ledger: Ledger, cell: Cell, uri: str, plan: Plan) -> None:
    run_id = ledger.begin_trial(cell, None, None)
    ledger.start_trial(run_id, cell.code)
    ledger.close_study("KILLED", {"table.md": "# table\n"})
    client = MlflowClient(uri)
    run = client.get_run(run_id)
    assert run.info.status == "KILLED"
    assert "run it again" in run.data.tags["mlflow.note.content"]
    assert client.get_run(ledger.parent_id).info.status == "KILLED"
    names = {artifact.path for artifact in client.list_artifacts(ledger.parent_id)}
    assert names == {"study.yaml", "table.md"}


def test_what_a_dead_process_left_is_closed_and_the_parent_is_kept(
    ledger: Ledger, cell: Cell, uri: str, plan: Plan, tmp_path: Path
) -> None:
    run_id = ledger.begin_trial(cell, None, None)
    ledger.start_trial(run_id, cell.code)
    again = Ledger(uri, tmp_path / "artifacts")
    again.open_study(plan)  # its owner, this process, is not waited for
    assert again.parent_id == ledger.parent_id
    record = again.record(run_id)
    assert (record.status, standing(record, cell.code)) == ("KILLED", "to resume")
    again.close_study("FINISHED", {})


def test_a_study_at_work_elsewhere_is_refused(
    ledger: Ledger, uri: str, plan: Plan, tmp_path: Path
) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        created = int(psutil.Process(process.pid).create_time())
        owner = Owner(Owner.this_process().host, process.pid, created)
        client = MlflowClient(uri)
        client.set_tag(ledger.parent_id, "orchestrator.owner", str(owner))
        with pytest.raises(LedgerError, match=rf"being run by process {process.pid} on"):
            Ledger(uri, tmp_path / "artifacts").open_study(plan)
    finally:
        process.communicate(b"\n")
    Ledger(uri, tmp_path / "artifacts").open_study(plan)


def test_an_unusable_store_is_named() -> None:
    with pytest.raises(LedgerError, match=r"MLflow at nonsense://x cannot be used"):
        Ledger("nonsense://x", None)
