"""orchestrator.cluster.aws_preemption before a metadata service of our own."""

import http.server
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.cluster.aws_preemption import notice_deadline, watch
from tests.support.servers import serving

TOKEN = "a-token"


class Metadata(http.server.BaseHTTPRequestHandler):
    """AWS's instance metadata service (version 2), as far as it tells of a machine's end."""

    ends_at: str | None = None

    def do_PUT(self) -> None:
        assert self.path == "/latest/api/token"
        assert int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) > 0
        self._answer(200, TOKEN)

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != TOKEN:
            self._answer(401, "")
        elif self.path == "/latest/meta-data/spot/termination-time" and Metadata.ends_at:
            self._answer(200, Metadata.ends_at)
        else:
            self._answer(404, "")

    def _answer(self, code: int, text: str) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def metadata() -> Iterator[str]:
    Metadata.ends_at = None
    with serving(Metadata) as url:
        yield url


def test_no_notice_is_none(metadata: str) -> None:
    assert notice_deadline(metadata) is None


def test_a_notice_says_when(metadata: str) -> None:
    Metadata.ends_at = "2031-02-03T04:05:06Z"
    assert notice_deadline(metadata) == datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC)


def test_the_watcher_looks_until_there_is_one(metadata: str) -> None:
    looks: list[float] = []
    left: list[int] = []

    def pause(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            end = datetime.now(UTC) + timedelta(seconds=110)
            Metadata.ends_at = end.strftime("%Y-%m-%dT%H:%M:%SZ")

    watch(lambda: notice_deadline(metadata), left.append, pause)
    assert len(looks) == 3
    assert len(left) == 1
    assert 100 <= left[0] <= 110


def test_a_service_that_is_away_is_asked_again(metadata: str) -> None:
    answers: list[str | None] = [None, "http://127.0.0.1:9", None]
    left: list[int] = []

    def deadline() -> datetime | None:
        where = answers.pop(0) if answers else metadata
        if not answers:
            Metadata.ends_at = "2031-02-03T04:05:06Z"
        return notice_deadline(where or metadata)

    watch(deadline, left.append, lambda seconds: None)
    assert left[0] > 0
