"""What the workers of a trial print, kept in a file for each, where the storage is."""

import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow.fs

from orchestrator.storage import Storage
from pipelines.data.storage import locate, within


def output_directory(storage: Storage, run_id: str) -> str:
    """Where the workers of a trial's run write, by the run's id in the ledger: a path or URI."""
    return storage.at(f"logs/trials/{run_id}")


def output_file(directory: str, worker: int) -> str:
    """The file of one worker in there, path or URI."""
    return within(directory, f"worker-{worker}.log")


def read_output(place: str) -> str | None:
    """What a file holds so far; None where it is not there."""
    location = locate(place)
    if location.filesystem.get_file_info(location.path).type != pyarrow.fs.FileType.File:
        return None
    with location.filesystem.open_input_stream(location.path) as stream:
        return str(stream.read().decode(errors="replace"))


@contextmanager
def captured_output(place: str) -> Iterator[Callable[[], None]]:
    """Within this context, whatever the process writes to standard output or error, Python or not,
    is appended to `place`, an error that ends it with its traceback.

    Nothing can be appended to an object: where `place` is a URI, it is written whole when the
    context ends, and whenever the function is called that is yielded.
    """
    with tempfile.TemporaryDirectory(prefix="output-") as temporary:
        file, bring = Path(place), _nothing
        if "://" in place:
            file = Path(temporary, "output")
            with suppress(OSError):  # the log is worth no training
                file.write_text(read_output(place) or "")

            def bring() -> None:
                with suppress(OSError):
                    location = locate(place)
                    with (
                        file.open("rb") as source,
                        location.filesystem.open_output_stream(location.path) as target,
                    ):
                        shutil.copyfileobj(source, target)

        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with _written_into(file):
                yield bring
        finally:
            bring()


@contextmanager
def _written_into(path: Path) -> Iterator[None]:
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


def _nothing() -> None:
    """What is written to a file of this machine is there already."""


def say(message: str) -> None:
    """A line with the time."""
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {message}", flush=True)
