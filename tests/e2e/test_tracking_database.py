"""clusters/database.sh: the PostgreSQL of the tracking server, its backup and its restore."""

import contextlib
import http.client
import http.server
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.heads import (
    CLUSTERS,
    Head,
    on_a_real_head,
    start_head,
    start_store,
    store_client,
    wait_for,
)
from tests.support.servers import serving

pytestmark = on_a_real_head


@pytest.fixture
def head() -> Iterator[Head]:
    """Yield a stopped head node with an empty bucket."""
    with start_store() as endpoint, start_head("head-1", endpoint) as head:
        yield head


def test_database_is_restored_after_its_machine_is_lost(head: Head) -> None:
    head.start()
    head.sql("CREATE TABLE runs (name text); INSERT INTO runs VALUES ('first')")
    head.send_log()
    head.sql("INSERT INTO runs VALUES ('within the last minute')")
    head.lose()
    head.start()
    names = head.sql("SELECT name FROM runs").splitlines()
    assert names[:1] == ["first"]

    head.stop()  # a restart with the same disk but another bucket
    store = store_client(head.endpoint)
    store.create_bucket(Bucket="other")
    head.bucket = "other"
    head.start()
    assert head.sql("SELECT name FROM runs").splitlines() == names
    keys = [entry["Key"] for entry in store.list_objects_v2(Bucket="other")["Contents"]]
    assert any(key.endswith("backup.info") for key in keys)


def test_unreachable_bucket_is_not_treated_as_empty(head: Head) -> None:
    head.endpoint = "http://127.0.0.1:9"
    head.fails("prepare")
    assert not head.data.exists()


@pytest.mark.parametrize(
    ("restore", "code"),
    [
        ("exit 0", 0),
        ('[ "$1" = --test ] || exit 1', 1),  # the file does not exist
        ("exit 1", 200),  # Python fails to start
        ("exit 2", 200),  # no network
        ("exit 4", 200),  # any other error
        ('[ "$1" = --test ] || exit 4', 200),  # the network returns, but the file still fails
        ("mkdir tried 2> /dev/null && exit 4; exit 0", 0),
        ("mkdir tried 2> /dev/null && exit 1; exit 0", 1),
        ('[ "$1" != --test ] || exit 2; mkdir tried 2> /dev/null && exit 1; exit 0', 0),
    ],
)
def test_fetch_reports_the_end_of_the_log_only_if_the_bucket_confirms_it(
    tmp_path: Path, restore: str, code: int
) -> None:
    """PostgreSQL treats any exit code from 1 to 125 as the end of the log."""
    program = tmp_path / "barman-cloud-wal-restore"
    program.write_text(f"#!/bin/bash\n{restore}\n")
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", CLUSTERS / "database.sh", "fetch", "000000010000000000000001", "file"],
        env={"PATH": "/usr/bin:/bin", "BIN": str(tmp_path), "PAUSES": "0 0"}
        | dict.fromkeys(("BACKUP", "HEAD", "DATA", "SOCKET", "OWNER"), "-"),
        cwd=tmp_path,
    )
    assert done.returncode == code


class Unreliable(http.server.BaseHTTPRequestHandler):
    """Proxy to an S3 server that fails the next `failures` requests for write-ahead log files."""

    protocol_version = "HTTP/1.1"
    store = ""  # HOST:PORT
    failures = 0

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.command == "GET" and "wals" in self.path and Unreliable.failures > 0:
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

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on  # noqa: N815

    def log_message(self, format: str, *arguments: object) -> None:
        """Do not log requests."""


@pytest.fixture
def unreliable(head: Head) -> Iterator[Head]:
    """Yield a head node that uses an S3 server with `Unreliable.failures` failures."""
    Unreliable.store, Unreliable.failures = head.endpoint.removeprefix("http://"), 0
    with serving(Unreliable) as url:
        head.endpoint = url
        try:
            yield head
        finally:
            if head.server is not None and head.server.poll() is None:
                head.kill()


def test_bucket_failure_during_a_restore_loses_no_data(unreliable: Head) -> None:
    head = unreliable
    head.start()
    head.sql("CREATE TABLE runs (name text); INSERT INTO runs VALUES ('first')")
    head.stop()
    head.lose_disk()

    Unreliable.failures = 1000  # more failures than retries
    head.run("prepare")
    server = head.serve()
    ready = head.step("ready")
    assert server.wait(timeout=240) != 0
    assert ready.wait(timeout=240) != 0
    assert "ended before it was ready" in head.log()

    Unreliable.failures = 1  # the service manager restarts it later
    head.start()
    assert Unreliable.failures == 0
    assert head.sql("SELECT name FROM runs") == "first"  # not lost with the end of the log


def test_two_head_nodes_never_write_the_same_backups(head: Head) -> None:
    head.start()
    head.sql("CREATE TABLE runs (name text); INSERT INTO runs VALUES ('first')")
    head.send_log()
    with start_head("head-2", head.endpoint) as second:
        second.patience = 300
        preparing = second.step("prepare")
        wait_for(lambda: "head-1 has the backups" in second.log(), "the second one watches")
        head.run("renew")
        assert preparing.wait(timeout=240) == 3
        assert "`ray down`" in second.log()
        assert not second.data.exists()

        second.patience = 0  # treats head-1's claim as expired
        second.start()
        second.sql("INSERT INTO runs VALUES ('second')")
        assert head.fails("backup") == 3
        head.sql("INSERT INTO runs VALUES ('lost')")
        head.sql("SELECT pg_switch_wal()", "postgres")
        failed = "SELECT failed_count > 0 FROM pg_stat_archiver"
        wait_for(lambda: head.sql(failed, "postgres") == "t", "the first one's log is refused")
        # A backup that was under way when head-1 lost the claim, and whose log was archived.
        head.sql("ALTER SYSTEM SET archive_command = 'true'", "postgres")
        head.sql("SELECT pg_reload_conf()", "postgres")
        store = ["--endpoint-url", head.endpoint, "--host", str(head.socket)]
        late = ["barman-cloud-backup", *store, head.environment["BACKUP"], "tracking"]
        assert head.begin(*late).wait(timeout=240) == 0
        second.stop()
        second.run("release")

    head.kill()
    head.patience = 3600  # a released claim needs no waiting
    head.start()
    assert head.sql("SELECT name FROM runs").splitlines() == ["first", "second"]
    assert list(head.root.glob("data.outdated-*"))
