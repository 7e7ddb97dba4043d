"""Error messages and exit statuses of commands; only bugs print a traceback."""

import errno
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from pipelines.command import run_command
from pipelines.data.manifest import DatasetError


def function_that_raises(error: BaseException) -> Callable[[], int]:
    def work() -> NoReturn:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (DatasetError("x: damaged"), 2, "error: x: damaged\n"),
        (FileNotFoundError(2, "No such file", "a.yaml"), 2, "error: a.yaml: No such file\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (BrokenPipeError(32, "Broken pipe"), 1, ""),
    ],
)
def test_expected_error_prints_one_line(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int, message: str
) -> None:
    assert run_command(function_that_raises(error)) == status
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("error", [ValueError("a bug"), OSError("a bug")])
def test_unexpected_error_prints_a_traceback(
    capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    assert run_command(function_that_raises(error)) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback")
    assert printed.endswith(f"internal error: {type(error).__name__}: a bug\n")


def test_command_status_and_custom_report_are_used() -> None:
    reports: list[tuple[str, str]] = []
    report = lambda heading, message: reports.append((heading, message))  # noqa: E731
    assert run_command(lambda: 7, report) == 7
    assert (
        run_command(function_that_raises(KeyboardInterrupt()), report, interrupted="run it again")
        == 130
    )
    assert reports == [("run it again", "")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_delete_temporary_files(number: signal.Signals, tmp_path: Path) -> None:
    code = f"""
import signal, sys, tempfile, time
from pipelines.command import run_command

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # nohup ignores the last one
    handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    signal.signal(number, handler)

def work() -> int:
    with tempfile.TemporaryDirectory(dir={str(tmp_path)!r}):
        print("ready", flush=True)
        time.sleep(60)
    return 0

sys.exit(run_command(work))
"""
    command = [sys.executable, "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=Path.cwd(), **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as by nohup
    try:
        run_command(lambda: os.kill(os.getpid(), signal.SIGHUP) or 0)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_closed_pipe_ends_the_command_silently(tmp_path: Path) -> None:
    code = (
        "import sys; from pipelines.command import run_command\n"
        "sys.exit(run_command(lambda: print('x' * 100_000) or 0))"
    )
    command = f"{{ '{sys.executable}' -c \"$0\"; echo $? >&2; }} | head -c 1"
    completed = subprocess.run(
        ["bash", "-c", command, code], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    assert (completed.stdout, completed.stderr) == ("x", "1\n")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
    ],
    ids=str,
)
def test_lack_of_memory_is_one_sentence(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    assert run_command(fail) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("not enough memory: ")
    assert "sliding windows or smaller batches" in line


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),  # as zipfile and pyarrow raise it
        RuntimeError("(sqlite3.OperationalError) database or disk is full"),  # as MLflow does
    ],
)
def test_full_disk_is_one_sentence(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise error

    assert run_command(work) == 1
    assert capsys.readouterr().err == (
        "error: the disk is full; make room and run the same command again\n"
    )


def test_deleted_working_directory_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert run_command(lambda: len(os.getcwd())) == 2
    message = "error: the working directory was deleted; change to another one\n"
    assert capsys.readouterr().err == message
    monkeypatch.chdir(tmp_path)


def test_limited_file_size_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))  # as a write raises it

    assert run_command(work) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "raise it (`ulimit -f`)" in line


def test_failed_copy_names_its_destination(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> int:
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        error.filename, error.filename2 = "source.py", "there/copy.py"  # as shutil.copyfile does
        raise error

    assert run_command(work) == 2
    assert capsys.readouterr().err == "error: there/copy.py: No space left on device\n"


@pytest.mark.parametrize(
    ("work", "continues", "status", "message"),
    [
        ("print('x' * 100_000) or 0", "", 1, "error: {}"),
        ("print('x') or 0", "", 1, "error: {}"),
        ("print('x', flush=True) or 5", "the work continues", 5, "warning: {}; the work continues"),
    ],
)
def test_output_on_a_full_disk_is_one_sentence(
    work: str, continues: str, status: int, message: str
) -> None:
    script = "import sys; from pipelines.command import run_command; "
    script += f"sys.exit(run_command(lambda: {work}, continues={continues!r}))"
    command = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(script)} > /dev/full"
    completed = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True)
    sentence = "standard output (/dev/full) cannot be written: No space left on device"
    assert (completed.returncode, completed.stderr) == (status, f"{message.format(sentence)}\n")


def test_full_standard_error_does_not_end_the_command() -> None:
    script = "import sys; from pipelines.command import run_command; "
    script += "sys.exit(run_command(lambda: print('x', file=sys.stderr) or print('y') or 5))"
    command = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(script)} 2> /dev/full"
    completed = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, text=True)
    assert (completed.returncode, completed.stdout) == (5, "y\n")


@pytest.mark.parametrize("closed", ["1", "0 1 2"])
def test_command_with_closed_streams(closed: str) -> None:
    script = "import os, sys; from pipelines.command import run_command; "
    script += "sys.exit(run_command(lambda: print('output') or 0))"
    redirections = " ".join(f"{number}>&-" for number in closed.split())
    command = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(script)} {redirections}"
    assert subprocess.run(["sh", "-c", command]).returncode == 0
