"""Stops the workers on every host through a file in their shared storage."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property

import pyarrow.fs

from orchestrator.storage import Storage
from pipelines.data.storage import Location, locate

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


def stop_file(storage: Storage, name: str) -> str:
    """Return the path or URI of the stop file of the command with this unique name."""
    return storage.at(f"{name}.stop")


class StopFile:
    """The stop file at `uri`, a path or URI; an empty one is never requested.

    Errors of the storage are logged once, and the operation is retried. All operations share one
    storage client.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._withdrawn = threading.Event()
        self._storage_works = True

    def request(self) -> None:
        """Write the file, which makes all its watchers stop. A thread does it and retries."""
        if not self._uri:
            return

        def write() -> None:
            while not self._withdrawn.is_set() and not self._attempt(self._write):
                self._withdrawn.wait(_POLL_SECONDS)

        threading.Thread(target=write, name="stop file", daemon=True).start()

    def withdraw(self) -> None:
        """Remove the file, if it exists. Failing is harmless, because names are never reused."""
        self._withdrawn.set()
        self._attempt(self._remove)

    def is_requested(self) -> bool:
        """Whether the file exists; False if the storage fails."""
        return bool(self._uri) and self._attempt(self._exists)

    @contextmanager
    def watched(self) -> Iterator[Callable[[], bool]]:
        """Yield a function that tells whether the file exists. A thread polls the storage within
        this context, so the function returns immediately."""
        requested, closed = threading.Event(), threading.Event()

        def poll() -> None:
            while not closed.is_set() and not requested.is_set():
                if self.is_requested():
                    requested.set()
                else:
                    closed.wait(_POLL_SECONDS)

        if self._uri:
            threading.Thread(target=poll, name="stop file", daemon=True).start()
        try:
            yield requested.is_set
        finally:
            closed.set()

    @cached_property
    def _location(self) -> Location:
        return locate(self._uri)

    def _write(self) -> bool:
        self._location.filesystem.open_output_stream(self._location.path).close()
        return True

    def _remove(self) -> bool:
        if self._exists():
            self._location.filesystem.delete_file(self._location.path)
        return True

    def _exists(self) -> bool:
        info = self._location.filesystem.get_file_info(self._location.path)
        return bool(info.type == pyarrow.fs.FileType.File)

    def _attempt(self, operation: Callable[[], bool]) -> bool:
        """Return the result of `operation`, or False if the storage fails."""
        try:
            result = operation()
        except Exception as error:  # each file system raises its own
            if self._storage_works:
                logger.warning("%s: the storage does not respond (%s)", self._uri, error)
            self._storage_works = False
            return False
        self._storage_works = True
        return result
