"""A stop that reaches the workers on every host: a file in the storage that all of them share."""

import logging
import threading
import time
from collections.abc import Callable
from functools import cached_property

import pyarrow.fs

from orchestrator.storage import Storage
from pipelines.data.storage import Location, locate

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


def stop_file(storage: Storage, name: str) -> str:
    """Path or URI of the stop file of one command, by its unique `name`."""
    return storage.at(f"{name}.stop")


class StopFile:
    """The stop file at `place`, a path or URI; empty for one that never comes.

    Storage that fails for a moment ends nothing: what it raises is logged once, and it is asked
    again. One client of it serves for all that is asked of this object.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._withdrawn = threading.Event()
        self._answers = True

    def request(self) -> None:
        """Ask all that watch the file to stop. A thread writes it, so that nobody waits for the
        storage."""

        def write() -> None:
            while not self._withdrawn.is_set() and not self._tried(self._write):
                self._withdrawn.wait(_POLL_SECONDS)

        threading.Thread(target=write, name="stop file", daemon=True).start()

    def withdraw(self) -> None:
        """Remove the file, if it is there. One that cannot be removed is left: its name is its
        command's alone."""
        self._withdrawn.set()
        self._tried(self._remove)

    def is_requested(self) -> bool:
        """Whether the file is there, as far as the storage tells."""
        return bool(self._place) and self._tried(self._is_there)

    def watch(self) -> Callable[[], bool]:
        """A function that says whether the file is there. A thread looks, so that asking costs
        nothing, whatever the file lies on."""
        found = threading.Event()

        def look() -> None:
            while not self.is_requested():
                time.sleep(_POLL_SECONDS)
            found.set()

        if self._place:
            threading.Thread(target=look, name="stop file", daemon=True).start()
        return found.is_set

    @cached_property
    def _location(self) -> Location:
        return locate(self._place)

    def _write(self) -> bool:
        self._location.filesystem.open_output_stream(self._location.path).close()
        return True

    def _remove(self) -> bool:
        if self._is_there():
            self._location.filesystem.delete_file(self._location.path)
        return True

    def _is_there(self) -> bool:
        found = self._location.filesystem.get_file_info(self._location.path)
        return bool(found.type == pyarrow.fs.FileType.File)

    def _tried(self, act: Callable[[], bool]) -> bool:
        """What `act` returns; False where the storage does not answer."""
        try:
            done = act()
        except Exception as error:  # each file system raises its own
            if self._answers:
                logger.warning("%s: the storage does not answer (%s)", self._place, error)
            self._answers = False
            return False
        self._answers = True
        return done
