"""Background writes run in order, whatever a write raises."""

import logging

import pytest

from orchestrator.sweep.background_writer import BackgroundWriter


def test_failing_write_does_not_affect_later_writes(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    def fail() -> None:
        raise ValueError("the store is away")

    def fail_again(error: Exception) -> None:
        done.append(str(error))
        raise OSError("the error handler's own error")

    writer = BackgroundWriter()
    writer.submit(lambda: done.append("first"), fail_again)
    writer.submit(fail, fail_again)
    writer.submit(lambda: done.append("last"), fail_again)
    with caplog.at_level(logging.ERROR):
        writer.drain()
    assert done == ["first", "the store is away", "last"]
    assert "the error handler's own error" in caplog.text
