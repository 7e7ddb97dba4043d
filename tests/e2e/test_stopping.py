"""Signals to orchestrator.sweep during training: the state after them and the next resume."""

import fcntl
import os
import pty
import signal
import subprocess
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.support.sweep_command import (
    LONG,
    command,
    runs,
    trial_processes,
    wait_for,
)

pytestmark = pytest.mark.slow


def processes_of(command_id: int) -> list[psutil.Process]:
    """Return the processes of the command's cluster, including detached workers."""
    return [*psutil.Process(command_id).children(recursive=True), *trial_processes(command_id)]


def take_the_terminal() -> None:
    """Make standard output the controlling terminal, so that closing it sends SIGHUP."""
    fcntl.ioctl(1, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup


@contextmanager
def on_a_terminal(study: Path) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], None]]]:
    """Run the command on a pseudo-terminal; yield the process and a function that closes it.

    A thread reads and discards the output.
    """
    terminal, end = pty.openpty()

    closed = threading.Event()

    def read() -> None:
        with suppress(OSError):  # the other end is closed
            while not closed.is_set() and os.read(terminal, 65536):
                pass
        os.close(terminal)

    process = subprocess.Popen(
        command(study),
        stdout=end,
        stderr=end,
        start_new_session=True,  # its own process group, which receives Ctrl-C
        preexec_fn=take_the_terminal,
    )
    os.close(end)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield process, closed.set
    finally:
        process.kill()
        process.wait()
        reader.join()


def test_study_survives_sigterm_repeated_ctrl_c_and_a_closed_terminal(paced_study: Path) -> None:
    study = paced_study
    process = subprocess.Popen(command(study), stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert any(f"epoch 2/{LONG}".encode() in line for line in process.stdout)
        process.stdout.close()  # as when Ctrl-C also ends a `tee` that reads it
        processes = processes_of(process.pid)
        process.terminate()
        assert process.wait(180) == 130
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not any(each.is_running() for each in processes), 180)
    (parent,), trials, client = runs(study)
    assert parent.info.status == "KILLED"
    assert trials["strong"].info.status == "KILLED"
    assert trials["strong"].data.tags["orchestrator.reason"] == "the study was stopped"
    reached = int(trials["strong"].data.metrics["epoch"])

    def log() -> str:
        logs = study.parent / "storage" / "logs" / "trials"
        return "".join(file.read_text() for file in logs.rglob("worker-0.log"))

    with on_a_terminal(study) as (process, _):
        resumed = f"resumed after epoch {reached} of {LONG}"
        wait_for(lambda: resumed in log() or process.poll() is not None, 180)
        processes = processes_of(process.pid)
        assert len(processes) > 2
        for _ in range(20):  # the second one stops it at once, the rest do nothing
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        assert process.wait(180) == 130
    wait_for(lambda: not any(each.is_running() for each in processes), 180)
    (parent,), trials, client = runs(study)
    assert parent.info.status == "KILLED"
    assert trials["strong"].info.status == "KILLED"
    history = client.get_metric_history(trials["strong"].info.run_id, "train/loss")
    assert [entry.step for entry in history] == list(range(1, len(history) + 1))

    # Closing the terminal has the effect of a single Ctrl-C.
    with on_a_terminal(study) as (process, close):
        wait_for(lambda: log().count("resumed after") > 1 or process.poll() is not None, 180)
        processes = processes_of(process.pid)
        close()
        assert process.wait(180) == 130
    wait_for(lambda: not any(each.is_running() for each in processes), 180)
    _, trials, client = runs(study)
    assert trials["strong"].data.tags["orchestrator.reason"] == "the study was stopped"
