"""clusters/aws/check_head.sh and upgrade_mlflow.sh on a head node with a running database.

A stub of systemctl returns the state of the services and records the requested actions.
"""

import http.server
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.heads import (
    BUCKET,
    PROGRAMS,
    Head,
    on_a_real_head,
    start_head,
    start_store,
    store_client,
    wait_for,
)
from tests.support.servers import serving

pytestmark = on_a_real_head

SYSTEMCTL = """\
#!/bin/bash
case "$*" in
  *ActiveState*tracking-database*) cat state/database ;;
  *ActiveState*mlflow*) echo active ;;
  *NRestarts*) cat state/restarts ;;
  *) echo "$*" >> state/asked ;;
esac
"""


class Servers(http.server.BaseHTTPRequestHandler):
    """Health checks of MLflow and Ray; paths in `down` answer 503."""

    down: set[str] = set()

    def do_GET(self) -> None:
        self.send_response(503 if self.path in Servers.down else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Do not log requests."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Yield the URL of `Servers`."""
    with serving(Servers) as url:
        yield url


@pytest.fixture(scope="module")
def running_head() -> Iterator[Head]:
    """Yield a head node with a running database and the stub of systemctl."""
    with start_store() as endpoint, start_head("head-1", endpoint) as head:
        systemctl = head.root / "programs" / "systemctl"
        systemctl.write_text(SYSTEMCTL)
        systemctl.chmod(0o755)
        (head.root / "state").mkdir()
        head.start()
        yield head


@pytest.fixture
def head(running_head: Head) -> Head:
    """Return a healthy head node, with no recorded call of systemctl."""
    Servers.down = set()
    state = running_head.root / "state"
    (state / "database").write_text("active")
    (state / "restarts").write_text("0")
    (state / "asked").write_text("")
    return running_head


def _check(head: Head, url: str, grace: int = 5) -> tuple[int, dict[str, str]]:
    """Run the check; return its exit code and the reported state of each part."""
    directory = head.root / "seen"
    done = subprocess.run(
        ["bash", head.root / "aws" / "check_head.sh", url, url],
        env=head.environment | {"SEEN": str(directory), "GRACE": str(grace)},
        cwd=head.root,
        stdout=subprocess.PIPE,
        text=True,
        timeout=240,
    )
    assert (directory / "report").read_text() == done.stdout
    first, *lines = done.stdout.splitlines()
    assert first.endswith("UTC: all is well" if done.returncode == 0 else ": something is wrong")
    return done.returncode, {line[10:].split(":")[0]: line.split()[0] for line in lines}


def _systemctl_calls(head: Head) -> str:
    """Return the actions requested from systemctl."""
    return (head.root / "state" / "asked").read_text()


def test_healthy_head_node_passes_the_check(head: Head, url: str) -> None:
    parts = ("claim", "database", "log", "backup", "mlflow", "ray")
    assert _check(head, url) == (0, dict.fromkeys(parts, "well"))
    assert _systemctl_calls(head) == ""


def test_unanswered_health_checks_fail_after_the_grace_period(head: Head, url: str) -> None:
    Servers.down = {"/health", "/api/gcs_healthz"}
    code, parts = _check(head, url)
    assert (code, parts["mlflow"], parts["ray"]) == (0, "waiting", "waiting")
    assert _systemctl_calls(head) == ""

    code, parts = _check(head, url, grace=0)
    assert (code, parts["mlflow"], parts["ray"]) == (1, "WRONG", "WRONG")
    assert _systemctl_calls(head) == "restart --no-block mlflow.service\n"


def test_failing_log_archive_fails_the_check_after_the_grace_period(head: Head, url: str) -> None:
    head.sql("ALTER SYSTEM SET archive_command = 'false'", "postgres")
    head.sql("SELECT pg_reload_conf()", "postgres")
    wait_for(lambda: head.sql("SHOW archive_command", "postgres") == "false", "it is told so")
    head.sql("SELECT pg_logical_emit_message(true, 'a', 'change')", "postgres")
    head.sql("SELECT pg_switch_wal()", "postgres")
    assert _check(head, url)[1]["log"] == "well"  # within the grace period
    code, parts = _check(head, url, grace=0)
    assert (code, parts["log"]) == (1, "WRONG")
    head.sql("ALTER SYSTEM RESET archive_command", "postgres")
    head.sql("SELECT pg_reload_conf()", "postgres")


def test_outdated_backup_fails_the_check(head: Head, url: str) -> None:
    modified = (head.data / "backed-up").stat().st_mtime
    os.utime(head.data / "backed-up", (modified, time.time() - 14 * 3600))
    code, parts = _check(head, url)
    os.utime(head.data / "backed-up", (modified, modified))
    assert (code, parts["backup"]) == (1, "WRONG")


def test_restore_may_exceed_the_grace_period_unless_its_service_restarts(
    head: Head, url: str
) -> None:
    (head.root / "state" / "database").write_text("activating")
    parts = {"claim": "well", "database": "waiting", "ray": "well"}
    assert _check(head, url, grace=0) == (0, parts)

    (head.root / "state" / "restarts").write_text("3")
    assert _check(head, url, grace=0) == (1, parts | {"database": "WRONG"})


def test_unreachable_bucket_fails_the_check_without_stopping_services(head: Head, url: str) -> None:
    endpoint, head.endpoint = head.endpoint, "http://127.0.0.1:9"
    code, parts = _check(head, url)
    code_later, parts_later = _check(head, url, grace=0)
    head.endpoint = endpoint
    assert (code, parts["claim"]) == (0, "waiting")
    assert (code_later, parts_later["claim"]) == (1, "WRONG")
    assert _systemctl_calls(head) == ""


def _backups(head: Head) -> int:
    """Return the number of backups in the bucket."""
    objects = store_client(head.endpoint).list_objects_v2(Bucket=BUCKET)["Contents"]
    return sum(entry["Key"].endswith("backup.info") for entry in objects)


def _upgrade(head: Head, environment: Path | str) -> int:
    """Upgrade the tables with the MLflow of an environment; return the exit code."""
    url = f"postgresql+psycopg2:///mlflow?host={head.socket}"
    done = subprocess.run(
        ["bash", head.root / "aws" / "upgrade_mlflow.sh", environment, url],
        env=head.environment,
        cwd=head.root,
        timeout=240,
    )
    return done.returncode


def _tables(head: Head, database: str) -> list[str]:
    """Return the sorted lines of a database's schema."""
    dump = [PROGRAMS[-1] / "pg_dump", "--host", head.socket, "--schema-only", database]
    text = subprocess.run(dump, capture_output=True, check=True, text=True).stdout
    return sorted(line.rstrip(",") for line in text.splitlines() if "restrict" not in line)


OLD_TABLES = """
import sys
import sqlalchemy
from alembic import command
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base

engine = sqlalchemy.create_engine(sys.argv[1])
config = _get_alembic_config(sys.argv[1])
Base.metadata.create_all(engine)
command.upgrade(config, "acf3f17fdcc7")
with engine.begin() as connection:
    connection.exec_driver_sql(
        "INSERT INTO experiments (name, lifecycle_stage) VALUES ('study', 'active')")
    connection.exec_driver_sql(
        "INSERT INTO runs (run_uuid, name, status, lifecycle_stage, experiment_id)"
        " VALUES ('1', 'trial', 'FINISHED', 'active', 1)")
"""


def test_tables_of_an_older_mlflow_are_backed_up_and_upgraded(head: Head, tmp_path: Path) -> None:
    url = f"postgresql+psycopg2:///mlflow?host={head.socket}"
    # Create the schema of 2023 with MLflow's own migrations.
    subprocess.run([sys.executable, "-c", OLD_TABLES, url], check=True)
    old = _tables(head, "mlflow")

    future = tmp_path / "bin"
    future.mkdir()
    for name, line in (("python", "echo 99.0"), ("mlflow", "exit 1")):
        (future / name).write_text(f"#!/bin/sh\n{line}\n")
        (future / name).chmod(0o755)
    backups = _backups(head)
    assert _upgrade(head, tmp_path) != 0
    assert _upgrade(head, tmp_path) != 0
    assert _backups(head) == backups + 1  # the second attempt makes no further backup
    assert _tables(head, "mlflow") == old

    assert _upgrade(head, sys.prefix) == 0
    assert _backups(head) == backups + 2
    head.sql("CREATE DATABASE new OWNER root", "postgres")
    new = [Path(sys.prefix) / "bin" / "mlflow", "db", "upgrade", url.replace("mlflow?", "new?")]
    subprocess.run(new, check=True, capture_output=True)
    assert _tables(head, "mlflow") == _tables(head, "new") != old
    assert head.sql("SELECT name FROM runs") == "trial"

    assert _upgrade(head, sys.prefix) == 0
    assert _backups(head) == backups + 2  # already up to date


def test_services_stop_after_another_head_node_claims_the_backups(head: Head, url: str) -> None:
    other = head.environment | {"HEAD": "head-2", "PATIENCE": "0"}
    program = head.root / "backup_owner.py"
    subprocess.run(["/usr/bin/python3", program, "claim"], env=other, check=True)
    assert _check(head, url) == (1, {"claim": "WRONG"})
    assert _systemctl_calls(head) == "stop mlflow.service tracking-database.service\n"

    (head.root / "state" / "database").write_text("inactive")
    parts = {"claim": "WRONG", "database": "WRONG", "ray": "well"}
    assert _check(head, url, grace=0) == (1, parts)
