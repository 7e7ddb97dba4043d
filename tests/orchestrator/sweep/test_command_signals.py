"""Signals that stop a study in a process that continues."""

import io
import os
import signal
from collections.abc import Iterator

import pytest

from orchestrator.console import open_console
from orchestrator.sweep.command import stop_on_signals


def stop(*numbers: int, graceful: bool, is_command: bool = False) -> str:
    """Send signals to a study; return how it ended."""
    text = io.StringIO()
    ended = "at its start"
    try:
        with stop_on_signals(open_console(text), is_command) as request:
            request.graceful = graceful
            for number in numbers:
                os.kill(os.getpid(), number)
            ended = "cleanly"
    except KeyboardInterrupt:
        return f"{ended}, KeyboardInterrupt"
    except SystemExit as error:
        return f"{ended}, SystemExit {error.code}"
    return ended


@pytest.fixture(autouse=True)
def restored_handlers() -> Iterator[None]:
    """A command leaves its signals ignored, as do nohup and a shell for a job in the background."""
    handlers = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_study_in_python_ends_the_script_that_runs_it() -> None:
    """After the clean stop, a loop over studies must not continue with the next one."""
    assert stop(signal.SIGINT, graceful=True) == "cleanly, KeyboardInterrupt"
    assert stop(signal.SIGTERM, graceful=True) == "cleanly, SystemExit 130"
    assert stop(signal.SIGHUP, graceful=True) == "cleanly, SystemExit 130"
    assert stop(signal.SIGINT, graceful=False) == "at its start, KeyboardInterrupt"
    assert stop(signal.SIGTERM, graceful=False) == "at its start, SystemExit 130"
    assert stop(signal.SIGINT, signal.SIGINT, graceful=True) == "at its start, KeyboardInterrupt"
    assert stop(graceful=True) == "cleanly"


def test_command_returns_its_own_status() -> None:
    assert stop(signal.SIGINT, graceful=True, is_command=True) == "cleanly"
    assert stop(signal.SIGTERM, graceful=False, is_command=True).endswith("KeyboardInterrupt")
