"""Keeping the libraries' output out of the user's way: it goes to a file, ours to the terminal."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

# In cells, where the output is no terminal: room for every column of a table.
FILE_WIDTH = 160


@contextmanager
def quiet_output(directory: Path) -> Iterator[tuple[Console, Path]]:
    """Within this context, whatever writes to standard output or error, Python or not, writes to a
    log file in `directory`; the console handed out writes to the real standard output.
    """
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / f"sweep-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    sys.stdout.flush()
    sys.stderr.flush()
    saved_out, saved_err = os.dup(1), os.dup(2)
    terminal = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding or "utf-8", buffering=1)
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
        with suppress(BrokenPipeError):  # a reader such as `head` may have left
            terminal.close()
