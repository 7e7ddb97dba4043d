"""Heads that come and go on this machine, with clusters/database.sh, and a bucket that stays."""

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


# Marks of a test with such a head. CI installs the programs, and skips none.
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
    """For as long as a busy machine may take; then an error that says `what` was waited for."""
    end = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def store_client(endpoint: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=SECRET,
        region_name=KEYS["AWS_DEFAULT_REGION"],
    )


@contextlib.contextmanager
def start_store() -> Iterator[str]:
    """An S3 with an empty bucket, by its URL."""
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
    """One head: its disk, its PostgreSQL, and the steps that the service manager takes there."""

    def __init__(self, root: Path, name: str, endpoint: str) -> None:
        self.root, self.name, self.endpoint = root, name, endpoint
        self.data = root / "data"
        self.socket = root / "socket"
        self.server: subprocess.Popen[bytes] | None = None
        self.bucket = BUCKET
        self.patience = 0.0  # seconds before another head's silence counts

    @property
    def environment(self) -> dict[str, str]:
        """What clusters/aws/setup_head.sh gives every service, and the store in AWS's place."""
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
        """A command as the database's user."""
        with (self.root / "log").open("ab") as log:
            return subprocess.Popen(
                ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command],
                env=self.environment,
                cwd=self.root,
                stdout=log,
                stderr=log,
            )

    def step(self, *step: str) -> "subprocess.Popen[bytes]":
        return self.begin("bash", self.root / "database.sh", *step)

    def run(self, *step: str) -> None:
        assert self.step(*step).wait(timeout=240) == 0, self.log()

    def fails(self, *step: str) -> int:
        """How a step that must not succeed ends."""
        code = self.step(*step).wait(timeout=240)
        assert code != 0, self.log()
        return code

    def log(self) -> str:
        return (self.root / "log").read_text()

    def serve(self) -> "subprocess.Popen[bytes]":
        self.server = self.step("serve")
        return self.server

    def start(self) -> None:
        self.run("prepare")
        self.serve()
        self.run("ready")

    def stop(self) -> None:
        """As the service manager does, with `ray down` or a restart of the machine."""
        assert self.server is not None
        self.server.send_signal(signal.SIGINT)
        assert self.server.wait(timeout=240) == 0, self.log()

    def kill(self) -> None:
        """All processes end at once."""
        assert self.server is not None
        family = [psutil.Process(self.server.pid)]
        for process in family:  # grows; who stands still can begin no other
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
                family += process.children()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.server.wait()

    def lose(self) -> None:
        """The machine is gone, and its disk with it."""
        self.kill()
        self.lose_disk()

    def lose_disk(self) -> None:
        shutil.rmtree(self.data)

    def sql(self, statement: str, database: str = "mlflow") -> str:
        """What a statement gives, as MLflow's user, or in `postgres` as the server's own."""
        as_user = ["setpriv", "--reuid", "postgres"] if database == "postgres" else []
        done = subprocess.run(
            [*as_user, "psql", "--host", self.socket, "-d", database, "-Atqc", statement],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def send_log(self) -> None:
        """What happens once a minute by itself: the log so far goes to the bucket."""
        segment = self.sql("SELECT pg_walfile_name(pg_switch_wal())", "postgres")
        done = self.data / "pg_wal" / "archive_status" / f"{segment}.done"
        wait_for(done.exists, f"{segment} is in the bucket")


@contextlib.contextmanager
def start_head(name: str, endpoint: str) -> Iterator[Head]:
    """A head with an empty disk, on which nothing runs yet."""
    # Not pytest's own directory: the database's user must reach it, and socket paths are short.
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
