"""Console output of all commands: lines, progress bars, library output, and errors as sentences."""

import argparse
import io
import logging
import os
import secrets
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, ConsoleDimensions
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from pipelines import command
from pipelines.errors import UserError
from pipelines.output import OutputStream, guarded_output, is_descriptor, text_stream

# Columns of output that does not go to a terminal: enough for every column of a table.
FILE_WIDTH = 160


class InputError(UserError, ValueError):
    """An option or an input that cannot be used; the message says which and why."""


class BusyError(UserError, RuntimeError):
    """This process already runs or plans a study, whose log has its output."""


def check_directory(path: Path, option: str = "") -> None:
    """Raise InputError if `path` is a file. option: where the user named it, such as `--out`."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{option} {path} is a file; choose a directory".lstrip())


# Held while the output of this process goes to a log.
_redirected = threading.Lock()


class _TerminalConsole(Console):
    """A console that is as large as its own terminal, because all standard streams may be
    redirected."""

    @property  # type: ignore[misc]  # nothing sets the size
    def size(self) -> ConsoleDimensions:
        """The terminal's size now; `COLUMNS` in the environment takes precedence."""
        try:
            width, height = os.get_terminal_size(self.file.fileno())
        except (OSError, ValueError):
            width = height = 0
        if not (width and height) or "COLUMNS" in os.environ or self.is_dumb_terminal:
            return super().size
        return ConsoleDimensions(width, height)


def open_console(file: TextIO | None = None) -> Console:
    """Return a console that writes to `file`, by default to standard output."""
    file = file or sys.stdout
    if isinstance(file, io.TextIOWrapper):
        # File names may not be valid text, and terminals may lack the table's lines.
        file.reconfigure(errors="backslashreplace")
    if file.isatty():
        return _TerminalConsole(file=file, highlight=False)
    # FORCE_COLOR, which a notebook sets, colors lines; to rich, it would also make a terminal of a
    # notebook or log, which cannot redraw a live table. A text that is returned has no colors.
    colored = os.environ.get("FORCE_COLOR") and not isinstance(file, io.StringIO)
    return Console(
        file=file,
        width=FILE_WIDTH,
        highlight=False,
        color_system="standard" if colored else None,
        force_terminal=False,
        force_jupyter=False,  # rich would make an HTML output of each line
    )


def say(console: Console, message: str, style: str = "") -> None:
    """Print `message` verbatim: no markup, and no line breaks other than its own."""
    console.print(message, style=style, markup=False, highlight=False, soft_wrap=True)


def say_labeled(console: Console, label: str, style: str, message: str) -> None:
    """Print `label` in `style`, then `message` verbatim."""
    console.print(Text.assemble((label, style), f"  {message}"), highlight=False, soft_wrap=True)


def warn(console: Console, message: str) -> None:
    """Print a warning."""
    say_labeled(console, "warning", "yellow", message)


def progress(console: Console) -> Progress:
    """Return a progress bar that shows the time left; disabled unless a terminal can redraw it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_interactive)


def examples(prog: str, *arguments: str) -> dict[str, Any]:
    """Return arguments of a command's parser that show examples below its options."""
    lines = [f"  {prog} {each}".rstrip() for each in arguments]
    return {"epilog": "\n".join(["examples:", *lines]), "formatter_class": _HelpFormatter}


class _HelpFormatter(argparse.HelpFormatter):
    """A formatter that keeps the lines of the examples."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith("examples:") else super()._fill_text(text, width, indent)


def run_command(
    work: Callable[[Console], int],
    console: Console | None = None,
    *,
    on_stderr: bool = False,
    log: Path | None = None,
    interrupted: str = "interrupted",
) -> int:
    """Run a command and return its exit status; see `pipelines.command.run_command`.

    console: by default, standard output, or with on_stderr standard error; also shows errors. log:
    the file that takes standard error and thus all tracebacks. interrupted: printed after Ctrl-C.
    """
    command.open_closed_streams()
    with guarded_output():
        console = console or open_console(sys.stderr if on_stderr else sys.stdout)
        return _run_command(work, console, log, interrupted)


def _run_command(
    work: Callable[[Console], int], console: Console, log: Path | None, interrupted: str
) -> int:
    def report(heading: str, message: str) -> None:
        if heading == "internal error" and log is not None:
            message += f"; the traceback is in {log}"
        elif heading == "error" and log is not None and not isinstance(sys.exception(), UserError):
            traceback.print_exc()  # an OSError that may not be the user's fault
        _say_error(console, heading, message)

    def run() -> int:
        _provide_home()
        return work(console)

    return command.run_command(run, report, interrupted)


def _provide_home() -> None:
    """Set HOME where there is none, as in a container whose user is only a number: libraries fail
    without one."""
    if not os.path.isabs(os.path.expanduser("~")):
        from pipelines.data.storage import expand_home  # takes a second, for pyarrow

        os.environ["HOME"] = str(expand_home(Path("~")))


def _say_error(console: Console, heading: str, message: str) -> None:
    """Print `HEADING: MESSAGE`, or the lines of a longer message below the heading."""
    lines = message.splitlines()
    text = f" {message}" if len(lines) == 1 else "".join(f"\n  {line}" for line in lines)
    title = (f"{heading}:", "bold red") if lines else heading
    console.print(Text.assemble(title, text), highlight=False, soft_wrap=True)


@contextmanager
def capture_library_output(directory: Path, continues: str = "") -> Iterator[tuple[Console, Path]]:
    """Redirect standard output and error, of Python and of native code, to a log in `directory`.

    Yields a console that writes to the real standard output, and the log's path. In a notebook,
    that output is the cell's. continues: what happens if the real standard output cannot be
    written, as for `OutputStream`. Raises BusyError within another such context.
    """
    if not _redirected.acquire(blocking=False):
        raise BusyError(
            "this process already runs or plans a study; wait until it ends, or start another "
            "process"
        )
    try:
        with _redirected_output(directory, continues) as (console, log):
            yield console, log
    finally:
        _redirected.release()


@contextmanager
def _redirected_output(directory: Path, continues: str) -> Iterator[tuple[Console, Path]]:
    directory.mkdir(parents=True, exist_ok=True)
    # The directory may be shared by hosts and containers with equal process ids.
    log = directory / f"sweep-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(4)}.log"
    sys.stdout.flush()
    sys.stderr.flush()
    saved_out, saved_err = os.dup(1), os.dup(2)
    streams = sys.stdout, sys.stderr
    terminal = streams[0]
    if is_descriptor(terminal, 1):
        # Unbuffered, because a signal handler may print in the middle of another print.
        output = OutputStream(saved_out, saved_err, continues)
        terminal = text_stream(output, terminal.encoding or "utf-8", unbuffered=True)
    # Libraries may keep these streams after the context, so they never close the descriptors.
    sys.stdout, sys.stderr = (text_stream(OutputStream(fd)) for fd in (1, 2))
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    logging.captureWarnings(True)
    try:
        yield open_console(terminal), log
    finally:
        logging.captureWarnings(False)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved_out, 1)
        os.dup2(saved_err, 2)
        if terminal is not streams[0]:
            terminal.close()
        os.close(saved_out)
        os.close(saved_err)
        sys.stdout, sys.stderr = streams
