"""What the workers of a trial print, kept in a file for each, where the storage is."""

import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def output_directory(storage: Path, run_id: str) -> Path:
    """Where the workers of a trial's run write, by the run's id in the ledger."""
    return storage / "logs" / "trials" / run_id


@contextmanager
def kept_output(path: Path) -> Iterator[None]:
    """Within this context, whatever the process writes to standard output or error, Python or not,
    is appended to `path`, an error that ends it with its traceback."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with path.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, original in zip((1, 2), saved, strict=True):
            os.dup2(original, number)
            os.close(original)


def say(message: str) -> None:
    """A line with the time."""
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {message}", flush=True)
