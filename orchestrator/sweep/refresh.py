"""Doing again what is asked for often, in the background and seldom."""

import threading
import time
from collections.abc import Callable

# Between two times: at least so many seconds, and so many times as long as the last one took.
_LEAST_PAUSE = 10.0
_PAUSE = 20.0


class ReportRefresher:
    """Makes a report anew some time after it was asked to: so seldom that it takes a twentieth of a
    processor, however many trials finish."""

    def __init__(self, work: Callable[[], None]) -> None:
        """work: what is done, in a thread of its own; it must not raise."""
        self._work = work
        self._wanted = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="report", daemon=True)
        self._thread.start()

    def request(self) -> None:
        """Something has changed; returns at once."""
        self._wanted.set()

    def close(self) -> None:
        """Stop, after the work that may be under way; what is asked for after that is not done."""
        self._closed.set()
        self._wanted.set()
        self._thread.join()

    def _run(self) -> None:
        while self._wanted.wait() and not self._closed.is_set():
            self._wanted.clear()
            started = time.monotonic()
            self._work()
            self._closed.wait(max(_LEAST_PAUSE, _PAUSE * (time.monotonic() - started)))
