"""An S3 server on this machine, and heads that replicate a SQLite file to it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import psutil

from tests.support import ROOT

BUCKET = "results"
SECRET = "the-secret-key-of-this-machine"
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": SECRET}

# Inserts rows 1, 2, ... into the database, and prints each one after its commit, with the time.
WRITER = """\
import itertools, os, sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], timeout=30)
database.execute("CREATE TABLE IF NOT EXISTS numbers (number INTEGER PRIMARY KEY)")
first = database.execute("SELECT coalesce(max(number), 0) FROM numbers").fetchone()[0] + 1
for number in itertools.count(first):
    with database:
        database.execute("INSERT INTO numbers VALUES (?)", (number,))
    os.write(1, f"{number} {time.time()}\\n".encode())  # in one piece: Litestream writes here, too
    time.sleep(0.02)
"""
SERVER = """\
import sys
from pathlib import Path
from orchestrator.console import open_console, run_command
from orchestrator.server import serve
from orchestrator.tracking.replica import Replica
uri, patience, directory, writer = sys.argv[1:]
server = [sys.executable, "-c", writer, f"{directory}/mlflow.db"]
replica = Replica(uri, float(patience))
sys.exit(run_command(lambda console: serve(replica, Path(directory), server, console)))
"""


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait until the condition holds; fail with the message `what` if it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def free_port() -> int:
    """Return a TCP port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Return whether a local server accepts connections on the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def store_client(port: int) -> Any:
    """Return an S3 client of the server at a port."""
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
    )


def bucket_uri(name: str, port: int) -> str:
    """Return the URI of `name` in the bucket of the server at a port."""
    query = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
    return f"s3://{BUCKET}/{name}?{query}"


@contextlib.contextmanager
def start_store() -> Iterator[int]:
    """Run an S3 server with an empty bucket and yield its port."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: answers(port), "the store starts")
        store_client(port).create_bucket(Bucket=BUCKET)
        yield port
    finally:
        server.terminate()
        server.wait()


def kill_all(process: "subprocess.Popen[Any]") -> None:
    """Kill a process and its descendants with SIGKILL, as the loss of their machine does."""
    processes = [psutil.Process(process.pid)]
    for each in processes:  # grows; a suspended process cannot start children
        with contextlib.suppress(psutil.NoSuchProcess):
            each.suspend()
            processes += each.children()
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()


class Head:
    """One head: the directory of its disk, and a server that writes numbers to its database."""

    def __init__(self, directory: Path, replica: str, patience: float = 10) -> None:
        self.directory, self.replica, self.patience = directory, replica, patience
        directory.mkdir()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    @property
    def written(self) -> list[tuple[int, float]]:
        """The committed numbers, each with the time of its commit."""
        lines = [line.split() for line in self.log.rpartition("\n")[0].splitlines()]
        return [(int(line[0]), float(line[1])) for line in lines if line[0].isdigit()]

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the server without waiting for it."""
        line = [sys.executable, "-c", SERVER, self.replica, str(self.patience), str(self.directory)]
        environment = {**os.environ, **KEYS, "PYTHONPATH": str(ROOT)}
        with (self.directory / "log").open("w") as log:
            self.process = subprocess.Popen(
                [*line, WRITER], env=environment, stdout=log, stderr=log, start_new_session=True
            )
        return self.process

    def run(self) -> None:
        """Start the server and wait until it has committed a number."""
        process = self.start()
        wait_for(lambda: bool(self.written) or process.poll() is not None, "the server starts")
        assert process.poll() is None, self.log

    def refused(self) -> str:
        """Start the server, which must refuse to run; return its output."""
        assert self.start().wait(timeout=60) == 2, self.log
        return self.log

    def stop(self) -> None:
        """Stop the server as the service manager does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=60) == 0, self.log

    def kill(self) -> float:
        """Lose the machine; return the time."""
        assert self.process is not None
        now = time.time()
        kill_all(self.process)
        return now
