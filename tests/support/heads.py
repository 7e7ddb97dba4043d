"""Head nodes on this machine that run clusters/database.sh, with a bucket that outlives them."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest

from tests.support import ROOT

CLUSTERS = ROOT / "clusters"
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
BUCKET = "results"
SECRET = "the-secret-key-of-this-machine"
KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
}


# Marks of a test with a real head node. CI installs the programs and skips none of these tests.
on_a_real_head = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.skipif(
        os.geteuid() != 0 or not PROGRAMS or not shutil.which("barman-cloud-backup"),
        reason="needs programs that pip cannot install, and root to run them as their own user: "
        "apt-get install postgresql barman-cli-cloud",
    ),
]


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait up to four minutes until the condition holds, then fail with the message `what`."""
    end = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.2)


def free_port() -> int:
    """Return a TCP port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Return whether a local server accepts connections on the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def store_client(endpoint: str) -> Any:
    """Return an S3 client of the server at `endpoint`."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=SECRET,
        region_name=KEYS["AWS_DEFAULT_REGION"],
    )


@contextlib.contextmanager
def start_store() -> Iterator[str]:
    """Run an S3 server with an empty bucket and yield its URL."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: answers(port), "the store starts")
        store_client(f"http://127.0.0.1:{port}").create_bucket(Bucket=BUCKET)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


class Head:
    """One head node: its disk, its PostgreSQL and the steps of its service manager."""

    def __init__(self, root: Path, name: str, endpoint: str) -> None:
        self.root, self.name, self.endpoint = root, name, endpoint
        self.data = root / "data"
        self.socket = root / "socket"
        self.server: subprocess.Popen[bytes] | None = None
        self.bucket = BUCKET
        self.patience = 0.0  # seconds until the claim of another head node expires

    @property
    def environment(self) -> dict[str, str]:
        """Return the services' variables of clusters/aws/setup_head.sh, for a local S3 server."""
        return KEYS | {
            "BACKUP": f"s3://{self.bucket}/tracking/segmentation",
            "HEAD": self.name,
            "PATIENCE": str(self.patience),
            "PAUSES": "0",
            "MAINPID": str(self.server.pid if self.server else ""),
            "DATA": str(self.data),
            "SOCKET": str(self.socket),
            "OWNER": "root",
            "BIN": str(PROGRAMS[-1]),
            "ENDPOINT": self.endpoint,
            "HOME": str(self.root),
            "PATH": f"{self.root}/programs:/usr/sbin:/usr/bin:/bin",
            "AWS_MAX_ATTEMPTS": "1",
        }

    def begin(self, *command: str | Path) -> "subprocess.Popen[bytes]":
        """Start a command as the database user."""
        with (self.root / "log").open("ab") as log:
            return subprocess.Popen(
                ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command],
                env=self.environment,
                cwd=self.root,
                stdout=log,
                stderr=log,
            )

    def step(self, *step: str) -> "subprocess.Popen[bytes]":
        """Start a step of database.sh."""
        return self.begin("bash", self.root / "database.sh", *step)

    def run(self, *step: str) -> None:
        """Run a step and assert that it succeeds."""
        assert self.step(*step).wait(timeout=240) == 0, self.log()

    def fails(self, *step: str) -> int:
        """Run a step, assert that it fails and return its exit code."""
        code = self.step(*step).wait(timeout=240)
        assert code != 0, self.log()
        return code

    def log(self) -> str:
        return (self.root / "log").read_text()

    def serve(self) -> "subprocess.Popen[bytes]":
        """Start the database server."""
        self.server = self.step("serve")
        return self.server

    def start(self) -> None:
        """Prepare the disk, start the server and wait until it is ready."""
        self.run("prepare")
        self.serve()
        self.run("ready")

    def stop(self) -> None:
        """Stop the server as the service manager does at `ray down` or a restart of the machine."""
        assert self.server is not None
        self.server.send_signal(signal.SIGINT)
        assert self.server.wait(timeout=240) == 0, self.log()

    def kill(self) -> None:
        """Kill all processes of the server at once."""
        assert self.server is not None
        processes = [psutil.Process(self.server.pid)]
        for process in processes:  # grows; a suspended process cannot start children
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
                processes += process.children()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.server.wait()

    def lose(self) -> None:
        """Lose the machine together with its disk."""
        self.kill()
        self.lose_disk()

    def lose_disk(self) -> None:
        """Delete the database's files."""
        shutil.rmtree(self.data)

    def sql(self, statement: str, database: str = "mlflow") -> str:
        """Run SQL as MLflow's user, or as the superuser in the database `postgres`."""
        as_user = ["setpriv", "--reuid", "postgres"] if database == "postgres" else []
        done = subprocess.run(
            [*as_user, "psql", "--host", self.socket, "-d", database, "-Atqc", statement],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def send_log(self) -> None:
        """Archive the current write-ahead log in the bucket, as happens once a minute."""
        segment = self.sql("SELECT pg_walfile_name(pg_switch_wal())", "postgres")
        done = self.data / "pg_wal" / "archive_status" / f"{segment}.done"
        wait_for(done.exists, f"{segment} is in the bucket")


@contextlib.contextmanager
def start_head(name: str, endpoint: str) -> Iterator[Head]:
    """Yield a head node with an empty disk and no running service."""
    # Not in pytest's folder: the database user must have access, and socket paths must be short.
    root = Path(tempfile.mkdtemp(prefix="tracking-", dir="/var/tmp"))
    root.chmod(0o755)
    for script in ("database.sh", "backup_owner.py"):
        shutil.copy(CLUSTERS / script, root)
    (root / "aws").mkdir()
    for script in ("check_head.sh", "upgrade_mlflow.sh"):
        shutil.copy(CLUSTERS / "aws" / script, root / "aws")
    (root / "socket").mkdir()
    (root / "programs").mkdir()
    (root / "log").touch()
    for path in (root, root / "socket"):
        shutil.chown(path, "postgres", "postgres")
    head = Head(root, name, endpoint)
    try:
        yield head
    finally:
        if head.server is not None and head.server.poll() is None:
            head.kill()
        shutil.rmtree(root)
