"""A stop that reaches the workers on every host: a file in the storage that all of them share."""

import threading
import time
from collections.abc import Callable

import pyarrow.fs

from orchestrator.storage import Storage
from pipelines.storage import locate

_POLL_SECONDS = 1.0


def stop_file(storage: Storage, name: str) -> str:
    """Path or URI of the stop file of one command, by its unique `name`."""
    return storage.at(f"{name}.stop")


def request(place: str) -> None:
    """Ask all that watch `place` to stop."""
    location = locate(place)
    location.filesystem.open_output_stream(location.path).close()


def withdraw(place: str) -> None:
    """Remove the file, if it is there."""
    location = locate(place)
    if is_asked(place):
        location.filesystem.delete_file(location.path)


def is_asked(place: str) -> bool:
    """Whether the file is there."""
    location = locate(place)
    found = location.filesystem.get_file_info(location.path)
    return bool(found.type == pyarrow.fs.FileType.File)


def watched(place: str) -> Callable[[], bool]:
    """A function that says whether the file at `place` is there; never, where that is empty. A
    thread looks, so that asking costs nothing, whatever the file lies on."""
    found = threading.Event()

    def look() -> None:
        while not is_asked(place):
            time.sleep(_POLL_SECONDS)
        found.set()

    if place:
        threading.Thread(target=look, name="stop file", daemon=True).start()
    return found.is_set
