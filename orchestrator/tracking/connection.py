"""Connects to a tracking store within ten seconds, or fails with one sentence.

MLflow by itself retries for minutes, without output, and two processes that create the same
database file at the same moment break it.
"""

import fcntl
import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO
from urllib.parse import quote, urlsplit

import sqlalchemy
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracking import MlflowClient

from pipelines.imports import importing_libraries
from pipelines.wording import cause

_SECONDS = 9.0
_PAUSE_SECONDS = 0.5
_SQLITE = "sqlite:///"
# By module: the package to install for a database driver, where its name is another.
_DRIVERS = {
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
}
_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


def open_client(tracking_uri: str) -> MlflowClient:
    """Return a client whose store has answered; create the database file if it is missing.

    Raises OSError, ValueError or MlflowException; the text says what is wrong.
    """
    if re.fullmatch(r"sqlite:/{0,3}(:memory:)?", tracking_uri):
        raise ValueError("it is in memory only and would lose all runs; use sqlite:///PATH")
    if (file := database_file(tracking_uri)) is not None:
        with _exclusive(file):
            if _is_new(file):
                _create(file)
            _check_database(file)
            return _connected(tracking_uri)
    if re.match(r"(localhost|[\w-]+(\.[\w-]+)*):\d+(/|$)", tracking_uri):
        raise ValueError(f"the address has no scheme; use http://{tracking_uri}")
    if tracking_uri.startswith(("http:", "https:")):
        if not urlsplit(tracking_uri).hostname:
            raise ValueError("the address has no host; use one such as http://HOST:5000")
        return _server(tracking_uri)
    scheme = re.match(r"(postgresql|mysql|mssql)[\w+]*://", tracking_uri)
    if scheme is None:
        return _connected(tracking_uri)
    try:
        if scheme[1] != "mssql":
            _check_sql_server(tracking_uri)
        return _connected(tracking_uri)
    except ModuleNotFoundError as error:
        package = _DRIVERS.get(error.name or "", error.name)
        raise ConnectionError(
            f"{scheme[0]} needs the Python module {error.name}, which is not installed here; run "
            f"`pip install '{package}'`"
        ) from None


def database_file(tracking_uri: str) -> Path | None:
    """Return the SQLite file of a tracking URI; None for a server."""
    if not tracking_uri.startswith(_SQLITE):
        return None
    return Path(tracking_uri.removeprefix(_SQLITE).partition("?")[0])


def _is_new(file: Path) -> bool:
    """Whether a database file has yet to be created."""
    return not file.exists() or file.stat().st_size == 0


def _connected(tracking_uri: str) -> MlflowClient:
    with importing_libraries():  # SQLAlchemy, for a store in a database
        client = MlflowClient(tracking_uri)
    client.search_experiments(max_results=1)
    return client


def _server(tracking_uri: str) -> MlflowClient:
    """Connect to a tracking server, which may have been started a moment ago."""
    end = time.monotonic() + _SECONDS
    may_retry = os.environ.get(_RETRIES) != "0"  # the user's setting
    while True:
        seconds = max(1, round(end - time.monotonic()))
        try:
            with _limits(seconds):
                return _connected(tracking_uri)
        except RestException:
            raise
        except MlflowException as error:
            if not may_retry or time.monotonic() + _PAUSE_SECONDS >= end:
                raise ConnectionError(
                    f"no answer within {_SECONDS:.0f} s ({short_cause(error)}); check the address, "
                    "and that the server runs"
                ) from None
        time.sleep(_PAUSE_SECONDS)


@contextmanager
def _limits(seconds: int) -> Iterator[None]:
    """Within this context, MLflow's requests do not retry and time out after `seconds`."""
    limits = {_RETRIES: "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds)}
    previous = {name: os.environ.get(name) for name in limits}
    os.environ.update(limits)
    try:
        yield
    finally:
        for name, value in previous.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def short_cause(error: Exception) -> str:
    """Return the innermost cause in the text of a failed request or SQL statement."""
    text = " ".join(str(error).split())
    patterns = (
        r"\(\w+\.\w*Error\) (.+?) (?:\[SQL|\(Background)",
        r"\[Errno -?\d+\] ([^)'\"]+)",
        r"(timed out)",
        r"error code (\d+)",
        r"^Failed to upload .+?: (.+)",  # of boto3
        r"(No such artifact: '[^']*')",
    )
    for pattern in patterns:
        if match := re.search(pattern, text):
            return match[1] if not match[1].isdigit() else f"HTTP status {match[1]}"
    return cause(error)


def _check_sql_server(tracking_uri: str) -> None:
    """Raise ConnectionError unless a database server accepts a connection: MLflow would retry for
    an hour."""
    options = {"connect_timeout": int(_SECONDS)}
    engine = sqlalchemy.create_engine(
        tracking_uri, poolclass=sqlalchemy.NullPool, connect_args=options
    )
    try:
        engine.connect().close()
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise ConnectionError(cause(getattr(error, "orig", None) or error)) from None


@contextmanager
def _exclusive(file: Path) -> Iterator[None]:
    """Let one process at a time open the database, so that only one creates it.

    Locks nothing if this process cannot write there, or if the file system has no locks. A process
    that was suspended while it opened a finished database keeps the lock and does no harm. Raises
    OSError if another process has been creating the database for `_SECONDS`.
    """
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a directory, not a database file")
    lock = None
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.with_name(f"{file.name}.lock").open("a")
    try:
        if lock is not None and not _locked(lock) and _is_new(file):
            raise OSError(
                f"another process has been creating {file} for {_SECONDS:.0f} s; wait for it, or "
                f"end it: it has opened {lock.name}"
            )
        yield
    finally:
        if lock is not None:
            lock.close()


def _locked(lock: IO[str]) -> bool:
    """Lock an open file, or return False if another process keeps it locked for `_SECONDS`."""
    end = time.monotonic() + _SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
        except OSError:  # the file system has no locks
            return True
        time.sleep(0.05)


def _create(file: Path) -> None:
    """Create the tables under another name, so that a killed process leaves no partial database."""
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    _connected(f"{_SQLITE}{new}")
    new.replace(file)


def _check_database(file: Path) -> None:
    """Raise an OSError unless the file is a database that can be read now.

    Only through SQLite: closing the file by other means would release SQLite's own locks on it.
    """
    mode = "rw" if os.access(file, os.W_OK) and os.access(file.parent, os.W_OK) else "ro"
    uri = f"file:{quote(str(file))}?mode={mode}"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=_SECONDS)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise OSError(f"another program has locked {file} for {_SECONDS:.0f} s") from None
        raise OSError(f"{file} cannot be read ({error})") from None
