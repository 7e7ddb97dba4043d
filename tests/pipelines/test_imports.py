"""An interrupt that strikes within an import."""

import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.imports import whole_imports

INTERRUPTED = """
import os, signal
os.kill(os.getpid(), signal.SIGINT)
finished = True
"""


@pytest.fixture(autouse=True)
def default_handler() -> Iterator[None]:
    """A shell ignores the interrupts of a job in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def module(user_module: Callable[[str, str], Path]) -> str:
    """A module that the user interrupts while it is imported."""
    return user_module("interrupted_module", INTERRUPTED).stem


def import_and_wait(module: str) -> None:
    importlib.import_module(module)
    time.sleep(10)


def test_interrupt_waits_until_the_import_ends(module: str) -> None:
    began, handler = time.monotonic(), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), whole_imports():
        import_and_wait(module)
    assert time.monotonic() - began < 5
    assert sys.modules.pop(module).finished
    assert signal.getsignal(signal.SIGINT) is handler


def test_module_that_runs_a_study_can_be_interrupted(
    user_module: Callable[[str, str], Path],
) -> None:
    """Imports around the context are not those that are protected."""
    text = "from pipelines.imports import whole_imports\nwith whole_imports():\n"
    body = INTERRUPTED.strip().replace("\n", "\n    ")
    user_module("running_module", f"{text}    {body}\n")
    with pytest.raises(KeyboardInterrupt):
        importlib.import_module("running_module")
    assert "running_module" not in sys.modules


def test_interrupt_outside_an_import_is_immediate() -> None:
    with pytest.raises(KeyboardInterrupt), whole_imports():
        os.kill(os.getpid(), signal.SIGINT)
