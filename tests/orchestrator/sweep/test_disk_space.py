"""A study on a disk that fills up."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.storage import Storage
from orchestrator.sweep import disk_space
from orchestrator.sweep.disk_space import DiskSpace, disk_full_message
from orchestrator.training.diagnosis import diagnose
from pipelines.errors import is_disk_full
from pipelines.training.experiment import Experiment
from tests.support.mounts import small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 40 MiB."""
    with small_disk(tmp_path / "disk", "40m") as mounted:
        yield mounted


def trial_of(millions: float) -> Any:
    return SimpleNamespace(cost=SimpleNamespace(values_m=millions), experiment=Experiment())


def test_trials_are_held_while_their_checkpoints_still_fit(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_space, "_CHECK_SECONDS", 0.0)
    trials = [trial_of(0.1), trial_of(0.2), trial_of(0.1)]
    space = DiskSpace(Storage.parse(str(disk)), trials, concurrent=2)
    assert space.needed == 32 * 2**20 + 2 * 4 * 300_000
    assert space.shortage() is None
    (disk / "other").write_bytes(bytes(10 << 20))
    message = space.shortage()
    assert message is not None
    assert f"the disk of {disk} has 31 MB left; the running trials need 36 MB" in message
    assert "make room, then rerun the same command" in message


def test_failed_write_is_a_full_disk_with_its_path(disk: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        (disk / "file").write_bytes(bytes(50 << 20))
    assert diagnose(caught.value).cause == "disk full"
    message = disk_full_message(Storage.parse(str(disk)))
    assert message.startswith(f"no space left on the disk of {disk} (")


def test_other_storage_has_no_limit() -> None:
    assert DiskSpace(Storage.parse("s3://bucket/storage"), [], 1).shortage() is None


def test_cause_of_an_error_counts() -> None:
    def raised(cause: Exception) -> Exception:
        try:
            try:
                raise cause
            except Exception:
                raise RuntimeError("the run could not be closed") from None
        except RuntimeError as error:
            return error

    assert is_disk_full(raised(RuntimeError("(sqlite3) database or disk is full\n[SQL: ...]")))
    assert is_disk_full(raised(OSError(122, "quota")))
    assert not is_disk_full(raised(OSError(13, "denied")))
