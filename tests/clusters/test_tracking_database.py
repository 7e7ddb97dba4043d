"""clusters/database.sh: the tracking server's PostgreSQL, its backup in a bucket, its return; and a
study that keeps everything there, as on cluster.yaml's head."""

import contextlib
import http.client
import http.server
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pyarrow.fs
import pytest

SCRIPT = Path(__file__).parents[2] / "clusters" / "database.sh"
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
BUCKET = "results"
SECRET = "the-secret-key-of-this-machine"

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
        self.name = "head-1"
        self.data = root / "data"
        self.socket = root / "socket"
        self.process: subprocess.Popen[bytes] | None = None

    def script(self, *step: str, wait: bool = True) -> "subprocess.Popen[bytes]":
        environment = {
            "BACKUP": f"s3://{BUCKET}/tracking",
            "HEAD": self.name,
            "PATIENCE": "3",
            "MAINPID": str(self.process.pid if self.process else ""),
            "DATA": str(self.data),
            "SOCKET": str(self.socket),
            "OWNER": "root",
            "BIN": str(PROGRAMS[-1]),
            "ENDPOINT": self.endpoint,
            "HOME": str(self.root),
            "PATH": "/usr/bin:/bin",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
        }
        as_postgres = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
        with (self.root / "log").open("ab") as log:
            process = subprocess.Popen(
                [*as_postgres, "bash", str(self.root / "database.sh"), *step],
                env=environment,
                stdout=log,
                stderr=log,
            )
        if wait:
            assert process.wait(timeout=120) == 0, self.log()
        return process

    def fails(self, *step: str) -> int:
        """How a step that must not succeed ends."""
        code = self.script(*step, wait=False).wait(timeout=120)
        assert code != 0
        return code

    def log(self) -> str:
        return (self.root / "log").read_text()[-3000:]

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
    for script in (SCRIPT, SCRIPT.with_name("backup_owner.py")):
        shutil.copy(script, root)
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
        aws_secret_access_key=SECRET,
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
    machine.fails("prepare")
    assert not machine.data.exists()


class Unreliable(http.server.BaseHTTPRequestHandler):
    """Passes requests on to a store, but fails the next `failures` that ask for a piece of the log."""

    protocol_version = "HTTP/1.1"
    store = ""  # HOST:PORT
    failures = 0

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.command == "GET" and "/wals/" in self.path and Unreliable.failures > 0:
            Unreliable.failures -= 1
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        connection = http.client.HTTPConnection(Unreliable.store)
        with contextlib.closing(connection):
            sent = {name: value for name, value in self.headers.items() if name != "Expect"}
            connection.request(self.command, self.path, body, sent)
            reply = connection.getresponse()
            content = reply.read()
        self.send_response(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = reply.getheader("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def unreliable(machine: Machine) -> Iterator[Machine]:
    """A machine whose store fails when it is told to."""
    Unreliable.store, Unreliable.failures = machine.endpoint.removeprefix("http://"), 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Unreliable) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        machine.endpoint = f"http://127.0.0.1:{server.server_port}"
        yield machine
        if machine.process is not None and machine.process.poll() is None:
            machine.stop(signal.SIGINT)
        server.shutdown()
        thread.join()


def test_a_store_that_fails_in_the_midst_of_a_restore_loses_nothing(unreliable: Machine) -> None:
    machine = unreliable
    machine.start()
    machine.sql("CREATE TABLE runs (name text); INSERT INTO runs VALUES ('first')")
    machine.stop(signal.SIGINT)
    machine.lose_disk()

    Unreliable.failures = 1
    machine.start()
    assert Unreliable.failures == 0
    assert machine.sql("SELECT name FROM runs") == "first"  # else the end of the log is here
    machine.sql("INSERT INTO runs VALUES ('second')")
    machine.stop(signal.SIGINT)
    machine.lose_disk()

    Unreliable.failures = 1000  # away for longer than anybody tries
    machine.script("prepare")
    machine.process = machine.script("serve", wait=False)
    machine.fails("ready")
    assert machine.process.wait(timeout=60) != 0
    Unreliable.failures = 0
    machine.start()  # as the service manager does a little later
    assert machine.sql("SELECT name FROM runs").splitlines() == ["first", "second"]


def _renew(machine: Machine, until: threading.Event) -> None:
    while not until.wait(0.5):
        machine.script("renew")


def test_two_heads_never_write_to_one_place(machine: Machine) -> None:
    machine.start()
    first_stops = threading.Event()
    renewals = threading.Thread(target=_renew, args=(machine, first_stops))
    renewals.start()
    with tempfile.TemporaryDirectory(prefix="tracking-", dir="/var/tmp") as directory:
        root = Path(directory)
        second = Machine(root, machine.endpoint)
        second.name = "head-2"
        for script in ("database.sh", "backup_owner.py"):
            shutil.copy(machine.root / script, root)
        (root / "socket").mkdir()
        for path in (root, root / "socket"):
            shutil.chown(path, "postgres", "postgres")
        try:
            assert second.fails("prepare") == 3
            assert "head-1" in second.log()
            assert not second.data.exists()
            first_stops.set()
            renewals.join()

            second.start()  # the first one no longer says that it lives
            assert machine.fails("renew") == 3
            assert machine.fails("backup") == 3
            machine.sql("SELECT pg_switch_wal()", "postgres")
            _wait_until(machine, "SELECT failed_count > 0 FROM pg_stat_archiver")
            assert machine.sql("SELECT archived_count FROM pg_stat_archiver", "postgres") != ""

            machine.script("release")  # not its own: without effect
            second.script("renew")
            second.stop(signal.SIGINT)
            second.script("release")
            began = time.monotonic()
            machine.script("prepare")  # nobody's, and so nobody is waited for
            assert time.monotonic() - began < 3
        finally:
            first_stops.set()
            renewals.join()
            if second.process is not None and second.process.poll() is None:
                second.stop(signal.SIGKILL)


def test_ready_ends_where_the_database_has_ended(machine: Machine) -> None:
    machine.process = subprocess.Popen(["true"])
    machine.process.wait()
    machine.fails("ready")
    assert "ended before it was ready" in machine.log()


def test_tables_of_an_older_mlflow_are_brought_forward(machine: Machine, tmp_path: Path) -> None:
    machine.start()
    uri = f"postgresql+psycopg2:///mlflow?host={machine.socket}"
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}

    def python(program: str) -> None:
        subprocess.run([sys.executable, "-c", program], env=environment, check=True)

    def upgrade() -> str:
        command = [sys.executable, "-m", "mlflow", "db", "upgrade", uri]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        dump = [PROGRAMS[-1] / "pg_dump", "--host", machine.socket, "--schema-only", "mlflow"]
        text = subprocess.run(dump, capture_output=True, check=True, text=True).stdout
        return "\n".join(sorted(line for line in text.splitlines() if "restrict" not in line))

    made = upgrade()  # a new database
    assert upgrade() == made
    python(
        "from mlflow.store.db.utils import _get_alembic_config\n"
        "from alembic import command\nimport sqlalchemy\n"
        f"engine = sqlalchemy.create_engine({uri!r})\n"
        f"config = _get_alembic_config({uri!r})\n"
        "with engine.begin() as connection:\n"
        "    config.attributes['connection'] = connection\n"
        "    command.downgrade(config, '-1')\n"
    )
    store = (
        "from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore\n"
        f"SqlAlchemyStore({uri!r}, {str(tmp_path)!r})"
    )
    with contextlib.suppress(subprocess.CalledProcessError):
        python(store)
        pytest.fail("MLflow serves older tables by itself")
    assert upgrade() == made
    python(store)


def test_a_study_in_the_bucket_is_reported_from_the_laptop(
    machine: Machine, small_streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.start()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    host = machine.endpoint.removeprefix("http://")
    query = f"?endpoint_override={host}&scheme=http&region=us-east-1"
    dataset = f"s3://{BUCKET}/data/streets"
    pyarrow.fs.copy_files(str(small_streets), f"{dataset}{query}", use_threads=False)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_"))}
    environment |= {
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_S3_ENDPOINT_URL": machine.endpoint,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "RAY_AUTH_MODE": "disabled",
        "HOME": str(tmp_path),
    }
    server = [sys.executable, "-m", *_server(machine.socket, port)]
    with (tmp_path / "mlflow.log").open("w") as log:
        tracking = subprocess.Popen(
            server, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{port}"
    study = tmp_path / "study.yaml"
    study.write_text(
        f"""
study: in a bucket
base:
  data: {{dataset: "{dataset}{query}", crop: [32, 32]}}
  model: {{backbone: dfnet1, flows: []}}
  training: {{epochs: 2, batch: 4}}
variants: {{strong: {{}}}}
"""
    )

    def command(name: str, *options: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", f"orchestrator.{name}", *options],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    storage = f"s3://{BUCKET}/storage{query}"
    try:
        _wait_for(port)
        told = command("sweep", str(study), "--storage", storage)
        assert "1 finished" in command("sweep", str(study), "--storage", storage, "--plan")
        log_text = command("studies", "logs", "strong", "--storage", storage)
        assert "epoch 2 of 2" in log_text
        laptop = tmp_path / "laptop"
        laptop.mkdir()
        environment["HOME"] = str(laptop)  # nothing of the study is there
        told += command("report", str(study), "--out", str(laptop / "report"))
    finally:
        os.killpg(tracking.pid, signal.SIGTERM)
        tracking.wait()
    table = (laptop / "report" / "table.csv").read_text()
    assert "strong" in table
    assert list((laptop / "report").glob("*.html"))
    client = boto3.client(
        "s3",
        endpoint_url=machine.endpoint,
        aws_access_key_id="testing",
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
    )
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket=BUCKET)["Contents"]]
    for part in ("storage/trials/", "storage/logs/trials/", "artifacts/", "tracking/"):
        assert any(key.startswith(part) for key in keys), part
    # What a machine may do it has of itself; nothing of it is written anywhere.
    written = [client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys]
    dump = subprocess.run(
        [PROGRAMS[-1] / "pg_dump", "--host", machine.socket, "mlflow"],
        capture_output=True,
        check=True,
    ).stdout
    logs = [path.read_bytes() for path in tmp_path.rglob("*.log")]
    assert not any(SECRET.encode() in text for text in [*written, *logs, dump, told.encode()])


def _server(database: Path, port: int) -> list[str]:
    """The tracking server's command, as clusters/aws/setup_head.sh has it started."""
    script = SCRIPT.with_name("aws").joinpath("setup_head.sh").read_text()
    line = script[script.index("mlflow server") : script.index("ExecStartPost=/usr/bin/curl")]
    line = line.replace("\\\\\n", " ").replace("$BUCKET", BUCKET)
    line = line.replace("/run/tracking", str(database)).replace("5000", str(port))
    return shlex.split(line.replace("--workers 2", "--workers 1"))


def _wait_for(port: int) -> None:
    for _ in range(240):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError("the tracking server does not start")


def _wait_until(machine: Machine, condition: str) -> None:
    for _ in range(60):
        if machine.sql(condition, "postgres") == "t":
            return
        time.sleep(0.5)
    raise AssertionError(f"never true: {condition}")
