"""Refreshes the report in the background, at a limited rate."""

import threading
import time
from collections.abc import Callable

# A refresh starts this many seconds after a request: the last trials' requests are dropped, because
# the command then computes the report itself.
_DELAY_SECONDS = 10.0
# The pause between two refreshes is at least this multiple of the duration of the last one.
_PAUSE_FACTOR = 20.0


class ReportRefresher:
    """Refreshes the report ten seconds or more after a request, and uses at most a twentieth of a
    CPU, however many trials finish."""

    def __init__(self, refresh: Callable[[], None]) -> None:
        """refresh: called in a background thread; must not raise."""
        self._refresh = refresh
        self._requested = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="report", daemon=True)
        self._thread.start()

    def request(self) -> None:
        """Request a refresh; return immediately."""
        self._requested.set()

    def close(self) -> None:
        """Stop after the current refresh, if any; drop pending requests."""
        self._closed.set()
        self._requested.set()
        self._thread.join()

    def _run(self) -> None:
        earliest = 0.0
        while self._requested.wait():
            pause = max(_DELAY_SECONDS, earliest - time.monotonic())
            if self._closed.wait(pause):
                return
            self._requested.clear()
            started = time.monotonic()
            self._refresh()
            ended = time.monotonic()
            earliest = ended + _PAUSE_FACTOR * (ended - started)
