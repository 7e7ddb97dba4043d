"""For how long another process has been silent, as this process reads its heartbeat."""

import pytest

from orchestrator.tracking import liveness
from orchestrator.tracking.liveness import EXPIRED_SECONDS, Liveness


class Clock:
    """A clock that a test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_time_without_reads_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tracking server may have been away for both processes."""
    clock = Clock()
    monkeypatch.setattr(liveness.time, "monotonic", clock.monotonic)
    watched = Liveness()
    assert watched.seconds_unchanged("run", "beat 1") == 0
    clock.now += 10
    assert watched.seconds_unchanged("run", "beat 1") == 10
    clock.now += 2 * EXPIRED_SECONDS  # no answer
    assert watched.seconds_unchanged("run", "beat 1") == 0
    for _ in range(40):
        clock.now += 5
        silence = watched.seconds_unchanged("run", "beat 1")
    assert silence == 200 > EXPIRED_SECONDS
    clock.now += 5
    assert watched.seconds_unchanged("run", "beat 2") == 0
