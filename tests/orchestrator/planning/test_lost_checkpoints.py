"""Trials to resume whose checkpoints are gone."""

from pathlib import Path

import pyarrow.fs
import pytest

from orchestrator.planning import lost_checkpoints as module
from orchestrator.planning.lost_checkpoints import lost_checkpoints, lost_checkpoints_warning
from orchestrator.planning.reconcile import Action, Decision
from orchestrator.study.trial_state import TrialState
from orchestrator.tracking.runs import TrialRun
from pipelines.data.storage import Location

IDENTITY = "0123456789abcdef0123"


def decision(run_id: str, epoch: int = 5, action: Action = "resume") -> Decision:
    run = TrialRun(run_id, "study", IDENTITY, "KILLED", "code", epoch, {})
    return Decision(TrialState.INTERRUPTED, action, run)


DECISIONS = {
    "kept": decision("a"),
    "deleted": decision("b"),
    "emptied": decision("c", 7),
    "within its first epoch": decision("d", 0),
    "failed, not to be resumed": decision("e", action="leave"),
    "missing": Decision(TrialState.MISSING, "train", None),
}


def test_recorded_epochs_without_checkpoints_are_found(tmp_path: Path) -> None:
    (tmp_path / "0123456789abcdef-a" / "checkpoint_1").mkdir(parents=True)
    (tmp_path / "0123456789abcdef-c").mkdir()
    assert lost_checkpoints(DECISIONS, str(tmp_path)) == {"deleted": 5, "emptied": 7}
    assert set(lost_checkpoints(DECISIONS, str(tmp_path / "deleted"))) == {
        "kept",
        "deleted",
        "emptied",
    }


class Bucket:
    """A file system that has trials in an object store, and counts the requests."""

    def __init__(self, *names: str) -> None:
        self.names, self.requests = names, 0

    def get_file_info(self, selector: pyarrow.fs.FileSelector) -> list[pyarrow.fs.FileInfo]:
        self.requests += 1
        folder = pyarrow.fs.FileType.Directory
        return [pyarrow.fs.FileInfo(f"{selector.base_dir}/{name}", folder) for name in self.names]


def test_object_store_is_listed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket("0123456789abcdef-a")
    monkeypatch.setattr(module, "locate", lambda uri: Location(uri, bucket, "bucket/trials"))
    many = {str(number): decision(str(number)) for number in range(1000)}
    assert lost_checkpoints({"kept": decision("a"), **many}, "s3://bucket").keys() == many.keys()
    assert bucket.requests == 1
    assert lost_checkpoints({"new": DECISIONS["missing"]}, "s3://bucket") == {}
    assert bucket.requests == 1


def test_unreachable_storage_does_not_fail_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(uri: str) -> Location:
        raise OSError("no credentials")

    monkeypatch.setattr(module, "locate", refuse)
    assert lost_checkpoints(DECISIONS, "s3://bucket") == {}


def test_warning_names_a_few_trials() -> None:
    assert lost_checkpoints_warning({}, "trials") == ""
    assert lost_checkpoints_warning({"strong": 3}, "trials") == (
        "the checkpoints of 'strong' (epoch 3) are not in trials; it trains from the start"
    )
    many = {f"seed {number}": number for number in range(1, 6)}
    assert lost_checkpoints_warning(many, "trials") == (
        "the checkpoints of 'seed 1' (epoch 1), 'seed 2' (epoch 2), 'seed 3' (epoch 3) and 2 more "
        "are not in trials; they train from the start"
    )
