"""clusters/database.sh: the tracking server's PostgreSQL, its backup in a bucket, its return."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

SCRIPT = Path(__file__).parents[2] / "clusters" / "database.sh"
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
BUCKET = "results"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.skipif(
        not PROGRAMS or not shutil.which("barman-cloud-backup") or os.geteuid() != 0,
        reason="needs root, PostgreSQL and barman-cloud (Debian: postgresql barman-cli-cloud)",
    ),
]


class Machine:
    """A head that comes and goes; the bucket stays."""

    def __init__(self, root: Path, endpoint: str) -> None:
        self.root, self.endpoint = root, endpoint
        self.data = root / "data"
        self.socket = root / "socket"
        self.process: subprocess.Popen[bytes] | None = None

    def script(self, step: str, wait: bool = True) -> "subprocess.Popen[bytes]":
        environment = {
            "BACKUP": f"s3://{BUCKET}/tracking",
            "DATA": str(self.data),
            "SOCKET": str(self.socket),
            "OWNER": "root",
            "BIN": str(PROGRAMS[-1]),
            "ENDPOINT": self.endpoint,
            "HOME": str(self.root),
            "PATH": "/usr/bin:/bin",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        as_postgres = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
        with (self.root / "log").open("ab") as log:
            process = subprocess.Popen(
                [*as_postgres, "bash", str(self.root / "database.sh"), step],
                env=environment,
                stdout=log,
                stderr=log,
            )
        if wait:
            assert process.wait(timeout=120) == 0, (self.root / "log").read_text()[-3000:]
        return process

    def start(self) -> None:
        self.script("prepare")
        self.process = self.script("serve", wait=False)
        self.script("ready")

    def stop(self, number: signal.Signals) -> None:
        """SIGINT is what the service manager sends; SIGKILL is a machine that is gone."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(timeout=60)
        time.sleep(1)  # the server's other processes notice

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


@pytest.fixture
def machine() -> Iterator[Machine]:
    # Not pytest's own directory: the database's user must reach it, and socket paths are short.
    root = Path(tempfile.mkdtemp(prefix="tracking-", dir="/var/tmp"))
    root.chmod(0o755)
    shutil.copy(SCRIPT, root / "database.sh")
    (root / "socket").mkdir()
    for path in (root, root / "socket"):
        shutil.chown(path, "postgres", "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    endpoint = f"http://127.0.0.1:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        region_name="us-east-1",
    )
    for attempt in range(100):
        try:
            client.create_bucket(Bucket=BUCKET)
            break
        except Exception:
            assert attempt < 99, "the store does not start"
            time.sleep(0.2)
    machine = Machine(root, endpoint)
    try:
        yield machine
    finally:
        if machine.process is not None and machine.process.poll() is None:
            machine.stop(signal.SIGINT)
        store.terminate()
        store.wait()
        shutil.rmtree(root)


def test_the_database_outlives_its_machine(machine: Machine) -> None:
    machine.start()
    machine.sql("CREATE TABLE runs (name text); INSERT INTO runs VALUES ('first')")

    machine.stop(signal.SIGINT)  # `ray down`, minutes after the last full backup
    machine.lose_disk()
    machine.start()
    assert machine.sql("SELECT name FROM runs") == "first"

    machine.sql("INSERT INTO runs VALUES ('second')")
    machine.sql("SELECT pg_switch_wal()", "postgres")  # what happens once a minute by itself
    _wait_until(machine, "SELECT failed_count = 0 AND archived_count > 0 FROM pg_stat_archiver")
    machine.sql("INSERT INTO runs VALUES ('within the last minute')")
    machine.stop(signal.SIGKILL)  # the machine is gone
    machine.lose_disk()
    machine.start()
    names = machine.sql("SELECT name FROM runs").splitlines()
    assert names[:2] == ["first", "second"]

    machine.stop(signal.SIGINT)  # a restart of the head: the disk is there
    machine.start()
    assert machine.sql("SELECT name FROM runs").splitlines() == names


def test_a_store_that_cannot_be_asked_is_not_taken_for_an_empty_one(machine: Machine) -> None:
    machine.endpoint = "http://127.0.0.1:9"
    process = machine.script("prepare", wait=False)
    assert process.wait(timeout=120) != 0
    assert not machine.data.exists()


def _wait_until(machine: Machine, condition: str) -> None:
    for _ in range(60):
        if machine.sql(condition, "postgres") == "t":
            return
        time.sleep(0.5)
    raise AssertionError(f"never true: {condition}")
