"""The console on terminals and files."""

import io
import os
import pty
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest

from orchestrator.console import (
    FILE_WIDTH,
    BusyError,
    capture_library_output,
    open_console,
    progress,
    say,
    warn,
)
from orchestrator.sweep.progress import StudyProgress, TrialProgress
from tests.support import ROOT


def test_console_is_as_wide_as_its_own_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard streams are redirected, as they are under pytest."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("COLUMNS", raising=False)
    main, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as file:
        console = open_console(file)
        for width, height in ((120, 40), (90, 30)):
            termios.tcsetwinsize(terminal, (height, width))
            assert (console.size.width, console.height) == (width, height)
        monkeypatch.setenv("COLUMNS", "70")
        assert open_console(file).width == 70
    os.close(main)


@pytest.mark.parametrize("color", ["1", None])
def test_only_a_terminal_shows_a_live_table(color: str | None, tmp_path: Path) -> None:
    """A notebook sets FORCE_COLOR, and so do many CI services: colors, but one line per event."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm")
        patch.delenv("FORCE_COLOR", raising=False)
        patch.delenv("NO_COLOR", raising=False)
        if color is not None:
            patch.setenv("FORCE_COLOR", color)
        with (tmp_path / "log").open("w") as file:
            console = open_console(file)
            with (
                StudyProgress.of(console, [TrialProgress("a", epochs=2)]) as study,
                progress(console) as bar,
            ):
                bar.update(bar.add_task("reading", total=2), advance=1, refresh=True)
                study.started("a")
                study.epoch("a", 1, {"train/loss": 1.0})
                warn(console, "slow")
        text = io.StringIO()
        warn(open_console(text), "slow")
    lines = (tmp_path / "log").read_text().splitlines()
    label = "warning" if color is None else "\x1b[33mwarning\x1b[0m"
    assert lines == [
        "[0:00] (0/1 done) a: starting",
        "[0:00] (0/1 done) a: epoch 1/2, loss 1.000",
        f"{label}  slow",
    ]
    assert text.getvalue() == "warning  slow\n"


def test_files_have_room_for_every_column(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        assert open_console(file).width == FILE_WIDTH


def test_file_names_that_are_not_valid_text_are_printed(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="ascii") as file:
        say(open_console(file), "caf\xe9 \udcff")
    assert (tmp_path / "log").read_text() == "caf\\xe9 \\udcff\n"


def test_notebook_shows_only_the_lines_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The standard streams write to a cell, not to file descriptors, as they do under capsys."""
    with capture_library_output(tmp_path) as (console, log):
        say(console, "epoch 1")
        print("from Python")
        print("a warning", file=sys.stderr)
        os.write(1, b"from native code\n")
    print("after")
    assert capsys.readouterr() == ("epoch 1\nafter\n", "")
    assert log.read_text().splitlines() == ["from Python", "a warning", "from native code"]


def test_second_study_in_a_process_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two threads would exchange each other's standard streams."""
    refused: list[BaseException] = []

    def second() -> None:
        try:
            with capture_library_output(tmp_path):
                pass
        except BusyError as error:
            refused.append(error)

    with capture_library_output(tmp_path) as (console, _):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        say(console, "epoch 1")
    print("after")
    (error,) = refused
    assert str(error).startswith("this process already runs or plans a study; wait until it ends")
    assert capsys.readouterr().out == "epoch 1\nafter\n"
    second()
    assert len(refused) == 1


@pytest.mark.parametrize(
    ("continues", "ended", "message"),
    [
        ("", 1, "error: {}"),
        ("the study continues", 0, "warning: {}; the study continues"),
    ],
)
def test_output_that_cannot_be_written_is_one_sentence(
    continues: str, ended: int, message: str, tmp_path: Path
) -> None:
    """What libraries print to a log on a full disk is discarded."""
    script = f"""
import os, sys, warnings
from pathlib import Path
from orchestrator.console import capture_library_output, run_command, say

with capture_library_output(Path({str(tmp_path)!r}), {continues!r}) as (console, log):
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, 1), os.dup2(full, 2)
    print("from Python")
    warnings.warn("a warning")
    status = run_command(lambda console: say(console, "epoch 1") or say(console, "2") or 0, console)
sys.exit(status)
"""
    command = [sys.executable, "-c", script]
    with open("/dev/full", "w") as full:
        completed = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    sentence = "standard output (/dev/full) cannot be written: No space left on device"
    assert (completed.returncode, completed.stderr) == (ended, f"{message.format(sentence)}\n")


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
def test_command_of_a_user_who_is_only_a_number(tmp_path: Path, own_store: Path) -> None:
    """Without HOME and an entry in /etc/passwd, as in containers, MLflow cannot be imported.

    Linux lets only root hide the file by a mount, so the test is skipped for other users; CI runs
    as root.
    """
    # Name services may know root without the file.
    hide = "for file in /etc/passwd /etc/nsswitch.conf; do mount --bind /dev/null $file; done"
    script = f'{hide}; exec "$0" -m orchestrator studies list "$@"'
    ended = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, sys.executable, "--storage", str(own_store)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key != "HOME"}
        | {"TMPDIR": str(tmp_path)},
    )
    assert (ended.returncode, ended.stdout) == (0, f"no studies in {own_store}\n"), ended.stderr
    assert (tmp_path / "home-0").is_dir()


@pytest.mark.slow
def test_command_in_a_deleted_directory_is_one_sentence(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = 'cd "$1" && rmdir "$1" && exec "$0" -c "$2"'
    command = "from orchestrator.__main__ import main; raise SystemExit(main(['studies', 'list']))"
    ended = subprocess.run(
        ["sh", "-c", script, sys.executable, gone, command],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (ended.returncode, ended.stderr) == (2, "")
    assert ended.stdout == "error: the working directory was deleted; change to another one\n"
