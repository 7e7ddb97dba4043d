"""The log files of a trial's workers, in the storage: one per worker, with everything it prints."""

import os
import shlex
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
from orchestrator.training.failures import user_line
from pipelines.data.storage import join_uri, locate

DEFAULT_STORAGE = "storage"


def output_directory(storage: Storage, run_id: str) -> str:
    """Return the path or URI of the log directory of a trial's MLflow run."""
    return storage.at(f"logs/trials/{run_id}")


def output_file(directory: str, worker: int) -> str:
    """Return the path or URI of one worker's log file in the directory."""
    return join_uri(directory, f"worker-{worker}.log")


def read_output(uri: str) -> str | None:
    """Return the current content of a log file, or None if it does not exist."""
    location = locate(uri)
    if location.filesystem.get_file_info(location.path).type != pyarrow.fs.FileType.File:
        return None
    with location.filesystem.open_input_stream(location.path) as stream:
        return str(stream.read().decode(errors="replace"))


@contextmanager
def captured_output(uri: str) -> Iterator[Callable[[], None]]:
    """Within this context, append the process's standard output and error to the file `uri` (a path
    or URI), including output of C code and the traceback of an exception that ends the context.

    Object stores cannot append. If `uri` is a URI, the whole file is uploaded when the context ends
    and whenever the yielded function is called.
    """
    if "://" not in uri:
        Path(uri).parent.mkdir(parents=True, exist_ok=True)
        with _redirected_to(Path(uri)):
            yield _no_upload
        return
    with tempfile.TemporaryDirectory(prefix="output-") as temporary:
        file = Path(temporary, "output")
        with suppress(OSError):  # a failing log must not fail the training
            file.write_text(read_output(uri) or "")

        def upload() -> None:
            with suppress(OSError):
                location = locate(uri)
                with (
                    file.open("rb") as source,
                    location.filesystem.open_output_stream(location.path) as target,
                ):
                    shutil.copyfileobj(source, target)

        try:
            with _redirected_to(file):
                yield upload
        finally:
            upload()


@contextmanager
def _redirected_to(path: Path) -> Iterator[None]:
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with path.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    except Exception as error:
        with suppress(OSError):
            traceback.print_exc()
        with suppress(AttributeError):  # the traceback itself does not travel to the command
            error.user_line = user_line(error)  # type: ignore[attr-defined]
        raise
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        for number, original in zip((1, 2), saved, strict=True):
            os.dup2(original, number)
            os.close(original)


def _no_upload() -> None:
    """Do nothing: a local file needs no upload."""


def log(message: str) -> None:
    """Print one line with the time; a full disk must not fail the training."""
    with suppress(OSError):
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {message}", flush=True)


def logs_command(name: str, study: str, storage: str) -> str:
    """Return the command that prints the output of a study's trial."""
    command = ["orchestrator", "studies", "logs", name, "--study", study]
    if storage not in (DEFAULT_STORAGE, str(Path.cwd() / DEFAULT_STORAGE)):
        command += ["--storage", storage]
    return shlex.join(command)
