"""The stop file on storage that fails temporarily and on storage that works."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import LocalFileSystem

from orchestrator.training import stop_file
from orchestrator.training.stop_file import StopFile
from pipelines.data.storage import Location


class Storage:
    """A local directory behind a client whose next `failures` calls fail."""

    def __init__(self) -> None:
        self.failures = 0
        self.calls = 0
        self.clients = 0

    def locate(self, path: str) -> Location:
        self.clients += 1
        return Location(path, self, path)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        def call(path: str) -> Any:
            self.calls += 1
            if self.failures:
                self.failures -= 1
                raise OSError("503 SLOW_DOWN")
            return getattr(LocalFileSystem(), name)(path)

        return call


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Storage:
    flaky = Storage()
    monkeypatch.setattr(stop_file, "locate", flaky.locate)
    monkeypatch.setattr(stop_file, "_POLL_SECONDS", 0.005)
    return flaky


def becomes_true(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def test_watch_survives_failures_and_uses_one_client(storage: Storage, tmp_path: Path) -> None:
    storage.failures = 3
    with StopFile(str(tmp_path / "a.stop")).watched() as is_stop_requested:
        assert becomes_true(lambda: storage.calls > 10)
        assert not is_stop_requested()
        (tmp_path / "a.stop").touch()
        assert becomes_true(is_stop_requested)
    assert storage.clients == 1


def test_watch_ends_with_its_context(storage: Storage, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with StopFile(str(tmp_path / "a.stop")).watched():
        (thread,) = set(threading.enumerate()) - before
    thread.join(10)
    assert not thread.is_alive()


def test_unreachable_storage_means_no_request(
    storage: Storage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.stop").touch()
    stop = StopFile(str(tmp_path / "a.stop"))
    storage.failures = 2
    assert [stop.is_requested() for _ in range(3)] == [False, False, True]
    assert len(caplog.records) == 1  # one message, not one per second


def test_an_empty_stop_file_is_never_requested() -> None:
    before = set(threading.enumerate())
    stop = StopFile("")
    stop.request()
    assert not stop.is_requested()
    assert set(threading.enumerate()) <= before


def test_request_is_retried_until_it_is_written(storage: Storage, tmp_path: Path) -> None:
    storage.failures = 2
    stop = StopFile(str(tmp_path / "a.stop"))
    stop.request()
    assert becomes_true(stop.is_requested)
    storage.failures = 1
    stop.withdraw()  # the file remains, because the storage does not answer
    stop.withdraw()
    assert not (tmp_path / "a.stop").exists()


def test_empty_path_disables_the_stop_file(storage: Storage) -> None:
    assert not StopFile("").is_requested()
    with StopFile("").watched() as is_stop_requested:
        assert not is_stop_requested()
    assert storage.clients == 0
