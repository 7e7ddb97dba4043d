"""orchestrator.server on an S3 server: killed at random moments, restored, and started twice."""

import http.server
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orchestrator.tracking.replica import Replica
from tests.support.heads import (
    KEYS,
    Head,
    bucket_uri,
    start_store,
    wait_for,
)
from tests.support.servers import serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store() -> Iterator[int]:
    """Yield the port of an S3 server."""
    with start_store() as port:
        yield port


@pytest.fixture
def uri(store: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URI of an empty replica."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    return bucket_uri(f"tracking/{request.node.name}", store)


@pytest.fixture
def start(tmp_path: Path, uri: str) -> Iterator[Callable[[str], Head]]:
    """Yield a function that makes a head with an empty disk; end all of them after the test."""
    heads: list[Head] = []

    def make(name: str) -> Head:
        heads.append(Head(tmp_path / name, uri))
        return heads[-1]

    yield make
    for head in heads:
        if head.process is not None and head.process.poll() is None:
            head.kill()


def numbers(file: Path) -> list[int]:
    """Return the numbers in a database, in the order of their rows."""
    connection = sqlite3.connect(file)
    rows = connection.execute("SELECT number FROM numbers ORDER BY rowid").fetchall()
    connection.close()
    return [number for (number,) in rows]


def restored(uri: str, file: Path, moment: datetime | None = None) -> list[int]:
    """Return the numbers in the replica, at a moment; none if nothing had been sent by then."""
    return numbers(file) if Replica(uri).restore(file, moment) else []


def test_rows_survive_the_loss_of_the_machine_at_random_moments(
    start: Callable[[str], Head], uri: str, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    committed = reached = 0  # the last number that must be in the bucket, and that was written
    for index in range(3):
        head = start(f"head-{index}")
        head.patience = 0  # the one before it counts as lost at once
        head.run()
        # All but the last seconds of the machine before it, and no other number, was restored.
        assert committed < head.written[0][0] <= reached + 2
        time.sleep(rng.uniform(0, 6))
        killed = head.kill()
        reached = head.written[-1][0]
        kept = [number for number, at in head.written if at < killed - 4]
        committed = max(kept, default=head.written[0][0] - 1)
    rows = restored(uri, tmp_path / "restored.db")
    assert rows == list(range(1, len(rows) + 1))
    assert committed <= len(rows) <= reached + 1


def test_restart_on_the_same_disk_continues_without_a_loss(
    start: Callable[[str], Head], uri: str, tmp_path: Path
) -> None:
    head = start("head")
    head.run()
    head.kill()
    last = head.written[-1][0]
    head.run()  # does not wait for its own renewals to expire
    assert head.written[0][0] in (last + 1, last + 2)  # the last one may not have been printed
    head.stop()
    assert len(Replica(uri).generations()) == 1
    rows = restored(uri, tmp_path / "restored.db")
    assert rows == list(range(1, len(rows) + 1))
    assert len(rows) - head.written[-1][0] in (0, 1)

    head.replica = uri.replace("tracking/", "tracking/other-")  # starts with this disk's file
    head.run()
    head.stop()
    assert restored(head.replica, tmp_path / "other.db")[: len(rows)] == rows


def test_second_machine_is_refused_until_the_first_one_has_ended(
    start: Callable[[str], Head], uri: str
) -> None:
    first, second = start("first"), start("second")
    first.run()
    assert "is in use by another machine" in second.refused()
    assert not (second.directory / "mlflow.db").exists()
    first.stop()
    second.run()
    # A clean stop loses nothing. The writer may end between a commit and its line.
    assert second.written[0][0] - first.written[-1][0] in (1, 2)
    assert len(Replica(uri).generations()) == 2


def test_machine_stops_after_another_one_took_over(
    start: Callable[[str], Head], uri: str, tmp_path: Path
) -> None:
    first, second = start("first"), start("second")
    first.run()
    assert first.process is not None
    first.process.send_signal(signal.SIGSTOP)  # renews nothing; its database and Litestream go on
    second.patience = 0  # the first one counts as lost
    second.run()
    restart = second.written[0][0]
    wait_for(lambda: first.written[-1][0] > restart + 20, "both write")
    first.process.send_signal(signal.SIGCONT)
    assert first.process.wait(timeout=60) == 2
    assert "has taken over" in first.log
    lost = first.written[-1][0]
    assert "is in use by another machine" in first.refused()
    second.stop()
    rows = restored(uri, tmp_path / "restored.db")
    assert rows == list(range(1, len(rows) + 1))
    assert len(rows) - second.written[-1][0] in (0, 1)

    first.run()  # continues from the second one's rows; its own are set aside
    assert first.written[0][0] == rows[-1] + 1
    (old,) = first.directory.glob("outdated-*/mlflow.db")
    assert numbers(old)[-1] >= lost > restart


def test_earlier_moments_can_be_restored(
    start: Callable[[str], Head], uri: str, tmp_path: Path
) -> None:
    moments: list[tuple[datetime, int]] = []
    for name in ("first", "second"):
        head = start(name)
        head.run()
        time.sleep(1.5)
        moments.append((datetime.now(UTC), head.written[-1][0]))
        time.sleep(1.5)
        head.stop()
        moments.append((datetime.now(UTC), head.written[-1][0]))
        time.sleep(1)
    for index, (moment, number) in enumerate(moments):
        rows = restored(uri, tmp_path / f"{index}.db", moment)
        assert rows == list(range(1, len(rows) + 1))
        slack = 1.5 / 0.02 if index % 2 == 0 else 1  # changes are sent once a second
        assert number - slack <= len(rows) <= number + slack, index
    before = datetime(2020, 1, 1, tzinfo=UTC)
    assert not Replica(uri).restore(tmp_path / "before.db", before)


class Forbidden(http.server.BaseHTTPRequestHandler):
    """An S3 server that refuses every request."""

    def do_GET(self) -> None:
        self.send_error(403)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *arguments: object) -> None:
        """Do not log requests."""


def test_unreachable_bucket_is_not_treated_as_empty(tmp_path: Path) -> None:
    with serving(Forbidden) as url:
        head = Head(tmp_path / "head", bucket_uri("tracking/head", int(url.rpartition(":")[2])))
        assert "cannot be read" in head.refused()
    assert not (head.directory / "mlflow.db").exists()
