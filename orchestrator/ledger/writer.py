"""Writing to the ledger in the background, in order, so that nobody waits for MLflow."""

import logging
import queue
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

_Task = Callable[[], None]


class BackgroundWriter:
    """One thread that does what it is given, in order, until `drain` or `cancel`."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[tuple[_Task, Callable[[Exception], None]] | None]
        self._tasks = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    def submit(self, task: _Task, on_error: Callable[[Exception], None]) -> None:
        """Do `task` after all that was given before; `on_error` gets what it raises, on the
        writer's thread. What either raises is logged, and the next task is done all the same."""
        self._tasks.put((task, on_error))

    def drain(self) -> None:
        """Wait until all that was given is done, and end the thread."""
        self._tasks.put(None)
        self._thread.join()

    def cancel(self) -> None:
        """End the thread after what it is doing; the rest is not done."""
        self._cancelled.set()
        self.drain()

    def _work(self) -> None:
        while (entry := self._tasks.get()) is not None:
            if self._cancelled.is_set():
                continue
            task, on_error = entry
            try:
                task()
            except Exception as error:
                logger.exception("a write to the ledger failed")
                _tell(on_error, error)


def _tell(on_error: Callable[[Exception], None], error: Exception) -> None:
    try:
        on_error(error)
    except Exception:  # the store may be away for this, too; what is queued is not lost with it
        logger.exception("so did what was to be done about it")
