"""The console on terminals and files."""

import os
import pty
import termios
from pathlib import Path

import pytest

from orchestrator.console import FILE_WIDTH, open_console, say


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


def test_files_have_room_for_every_column(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        assert open_console(file).width == FILE_WIDTH


def test_names_that_are_no_text_are_printed(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", encoding="ascii") as file:
        say(open_console(file), "caf\xe9 \udcff")
    assert (tmp_path / "log").read_text() == "caf\\xe9 \\udcff\n"
