"""Keeping the libraries' output out of the user's way: it goes to a file, ours to the terminal."""

import errno
import io
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipelines import errors
from pipelines.errors import UserError

# In cells, where the output is no terminal: room for every column of a table.
FILE_WIDTH = 160


@contextmanager
def capture_library_output(directory: Path) -> Iterator[tuple[Console, Path]]:
    """Within this context, whatever writes to standard output or error, Python or not, writes to a
    log file in `directory`; the console handed out writes to the real standard output.
    """
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / f"sweep-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    sys.stdout.flush()
    sys.stderr.flush()
    saved_out, saved_err = os.dup(1), os.dup(2)
    # Unbuffered, because a signal handler that prints may interrupt what is being printed.
    terminal = io.TextIOWrapper(
        cast("BinaryIO", PipeTolerantStream(os.dup(1), "w")),
        encoding=sys.stdout.encoding or "utf-8",
        write_through=True,
    )
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    logging.captureWarnings(True)
    try:
        width = None if terminal.isatty() else FILE_WIDTH
        yield Console(file=terminal, width=width), log
    finally:
        logging.captureWarnings(False)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved_out, 1)
        os.dup2(saved_err, 2)
        os.close(saved_out)
        os.close(saved_err)
        terminal.close()


class PipeTolerantStream(io.FileIO):
    """An output whose reader may leave before its writer: what is written then is lost, without an
    error. In `sweep ... | tee log`, Ctrl-C ends tee at once, and the trials' checkpoints come
    later."""

    def write(self, data: Any) -> int:
        """Write all of it, or discard what nobody reads any more."""
        left = memoryview(data).cast("B")
        try:
            while left:
                left = left[super().write(left) or 0 :]
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
        return len(data)


class InputError(UserError, ValueError):
    """An option or an input that cannot be used; the message says which and why."""


def progress(console: Console) -> Progress:
    """A bar with the time left; on no terminal, nothing."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def run_command(work: Callable[[Console], int]) -> int:
    """Run a command that prints on a console, as `pipelines.errors.run_command` does."""
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=FILE_WIDTH)

    def report(heading: str, message: str) -> None:
        console.print(f"[bold red]{heading}[/]", highlight=False)
        for line in message.splitlines():
            say(console, f"  {line}")

    return errors.run_command(lambda: work(console), report)


def say(console: Console, message: str) -> None:
    """A plain line, however long."""
    console.print(message, markup=False, highlight=False, soft_wrap=True)
