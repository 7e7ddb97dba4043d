"""Connections to tracking stores that are new, broken, locked, or do not answer."""

import fcntl
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.tracking import connection
from orchestrator.tracking.connection import open_client
from orchestrator.tracking.store import TrackingError, TrackingStore
from tests.support import ROOT

PATIENCE = 30  # seconds; a busy machine must not fail a test


def error_of(uri: str) -> str:
    with pytest.raises(TrackingError) as caught:
        TrackingStore(uri, None)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_SECONDS", 1.0)


@pytest.fixture
def silent_server() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_server_that_does_not_answer(impatient: None, silent_server: int) -> None:
    began = time.monotonic()
    message = error_of(f"http://127.0.0.1:{silent_server}")
    assert time.monotonic() - began < PATIENCE
    assert "no answer within 1 s (timed out); check the address" in message


def test_server_that_does_not_run(impatient: None, silent_server: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "Connection refused" in error_of(f"http://127.0.0.1:{port}")


def test_database_server_that_does_not_run(impatient: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    began = time.monotonic()
    message = error_of(f"postgresql://user:secret@127.0.0.1:{port}/mlflow")
    assert time.monotonic() - began < PATIENCE
    assert "secret" not in message


@pytest.mark.parametrize(
    ("scheme", "module", "package"),
    [
        ("postgresql", "psycopg", "psycopg[binary]"),
        ("postgresql+psycopg2", "psycopg2", "psycopg2-binary"),
        ("mysql", "MySQLdb", "mysqlclient"),
        ("mysql+pymysql", "pymysql", "pymysql"),
        ("mssql+pymssql", "pymssql", "pymssql"),
    ],
)
def test_driver_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, scheme: str, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # also where it is installed
    message = error_of(f"{scheme}://user:secret@127.0.0.1:1/mlflow")
    assert f"{scheme}:// needs the Python module {module}, which is not installed" in message
    assert f"run `pip install '{package}'`" in message


@pytest.mark.parametrize("uri", ["http://", "https:///path", "http://:5000"])
def test_address_without_a_host(uri: str) -> None:
    assert "the address has no host" in error_of(uri)


def test_address_without_a_scheme() -> None:
    assert "use http://127.0.0.1:5000" in error_of("127.0.0.1:5000")


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:", "sqlite:"])
def test_store_in_memory(uri: str) -> None:
    assert "in memory only and would lose all runs" in error_of(uri)


def test_database_that_is_a_directory(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").mkdir()
    assert "is a directory" in error_of(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("a text that is not a database at all" * 100)
    message = error_of(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert "cannot be read (file is not a database)" in message


def test_database_that_another_program_has_locked(impatient: None, tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    with sqlite3.connect(file) as holder:
        holder.execute("CREATE TABLE t (x)")
    holder.execute("BEGIN EXCLUSIVE")
    assert f"another program has locked {file}" in error_of(f"sqlite:///{file}")
    holder.close()


def test_process_that_was_suspended_while_it_opened_the_database(
    impatient: None, tmp_path: Path
) -> None:
    file = tmp_path / "mlflow.db"
    with (tmp_path / "mlflow.db.lock").open("a") as suspended:
        fcntl.flock(suspended, fcntl.LOCK_EX)
        message = error_of(f"sqlite:///{file}")
        assert f"another process has been creating {file}" in message
        assert str(tmp_path / "mlflow.db.lock") in message
    open_client(f"sqlite:///{file}")
    with (tmp_path / "mlflow.db.lock").open("a") as suspended:
        fcntl.flock(suspended, fcntl.LOCK_EX)
        assert open_client(f"sqlite:///{file}").search_experiments()


@pytest.mark.slow
def test_processes_that_open_a_new_store_at_the_same_moment(tmp_path: Path) -> None:
    """One of them dies while it creates the tables."""
    uri = f"sqlite:///{tmp_path / 'storage' / 'mlflow.db'}"
    script = "import sys; from orchestrator.tracking.store import TrackingStore as S; "
    script += "print(len(S(sys.argv[1], None).experiment_names()))"

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", script, uri]
        return subprocess.Popen(
            command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    first = start()
    while not (tmp_path / "storage" / "mlflow.db.new").exists():
        assert first.poll() is None
        time.sleep(0.01)
    others = [start(), start()]
    first.kill()
    first.communicate()
    for process in others:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert output.strip() == "1"
