"""Refreshes the report in the background, at a limited rate."""

import threading
import time
from collections.abc import Callable

# The pause between two refreshes: at least this many seconds, and this multiple of the duration of
# the last refresh.
_MIN_PAUSE_SECONDS = 10.0
_PAUSE_FACTOR = 20.0


class ReportRefresher:
    """Refreshes the report soon after a request, but uses at most a twentieth of a CPU, however
    many trials finish."""

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
        while self._requested.wait() and not self._closed.is_set():
            self._requested.clear()
            started = time.monotonic()
            self._refresh()
            duration = time.monotonic() - started
            self._closed.wait(max(_MIN_PAUSE_SECONDS, _PAUSE_FACTOR * duration))
