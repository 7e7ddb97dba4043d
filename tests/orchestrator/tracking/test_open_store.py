"""Storages that cannot hold a tracking store."""

from pathlib import Path

import pytest

from orchestrator.storage import Storage
from orchestrator.tracking.open_store import open_existing_store, open_present_store, open_store
from orchestrator.tracking.store import TrackingError


def test_bucket_cannot_hold_the_tracking_store(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    storage = Storage.parse("s3://bucket/x")
    with pytest.raises(TrackingError, match="set MLFLOW_TRACKING_URI"):
        open_store(storage)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'file.db'}")
    with pytest.raises(TrackingError, match="set MLFLOW_TRACKING_URI"):
        open_store(storage)  # a local file is not a server


def test_storage_that_no_uri_can_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"choose a path without '\?'"):
        open_store(Storage.parse(str(tmp_path / "what?")))
    assert not (tmp_path / "what").exists()


def test_emptied_file_is_not_taken_for_a_store_without_studies(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    file.touch()
    with pytest.raises(TrackingError, match=f"{file} is empty: its studies are lost"):
        open_existing_store(tmp_path)
    for open_for_writing in (open_store, open_present_store):
        with pytest.raises(TrackingError, match=f"{file} is empty: its studies are lost"):
            open_for_writing(Storage.parse(str(tmp_path)))
    assert file.stat().st_size == 0


def test_missing_file_is_not_created_before_it_is_needed(tmp_path: Path, own_store: Path) -> None:
    assert open_present_store(Storage.parse(str(tmp_path / "new"))) is None
    assert not (tmp_path / "new").exists()
    assert open_present_store(Storage.parse(str(own_store))) is not None
