"""`orchestrator.cluster.aws_preemption` against a local metadata service."""

import http.server
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.cluster.aws_preemption import notice_deadline, watch
from tests.support.servers import serving

TOKEN = "a-token"


class Metadata(http.server.BaseHTTPRequestHandler):
    """The part of AWS's instance metadata service (version 2) that announces a spot termination."""

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
        """Log nothing."""


@pytest.fixture
def metadata() -> Iterator[str]:
    Metadata.ends_at = None
    with serving(Metadata) as url:
        yield url


def test_deadline_is_none_without_a_notice(metadata: str) -> None:
    assert notice_deadline(metadata) is None


def test_notice_contains_the_deadline(metadata: str) -> None:
    Metadata.ends_at = "2031-02-03T04:05:06Z"
    assert notice_deadline(metadata) == datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC)


def test_watch_polls_until_there_is_a_notice(metadata: str) -> None:
    pauses: list[float] = []
    seconds_left: list[int] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            end = datetime.now(UTC) + timedelta(seconds=110)
            Metadata.ends_at = end.strftime("%Y-%m-%dT%H:%M:%SZ")

    watch(lambda: notice_deadline(metadata), seconds_left.append, pause)
    assert len(pauses) == 3
    assert len(seconds_left) == 1
    assert 100 <= seconds_left[0] <= 110


def test_watch_retries_an_unreachable_service(metadata: str) -> None:
    urls: list[str | None] = [None, "http://127.0.0.1:9", None]
    seconds_left: list[int] = []

    def deadline() -> datetime | None:
        url = urls.pop(0) if urls else metadata
        if not urls:
            Metadata.ends_at = "2031-02-03T04:05:06Z"
        return notice_deadline(url or metadata)

    watch(deadline, seconds_left.append, lambda seconds: None)
    assert seconds_left[0] > 0
