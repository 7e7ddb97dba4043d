"""A thread that writes in the background."""

import logging
import queue
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

Task = Callable[[], None]


class BackgroundWriter:
    """A thread that runs tasks in order until `drain` or `cancel`."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[tuple[Task, Callable[[Exception], None]] | None]
        self._tasks = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self._thread.start()

    def submit(self, task: Task, on_error: Callable[[Exception], None]) -> None:
        """Run `task` after all earlier ones; if it raises, call `on_error` on the writer's thread.
        Errors of both are logged and do not affect later tasks."""
        self._tasks.put((task, on_error))

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until all tasks are done, and end the thread. timeout: seconds to wait at most.
        Return whether the tasks are done."""
        self._tasks.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def cancel(self, timeout: float | None = None) -> bool:
        """End the thread after the current task; drop the others. See `drain`."""
        self._cancelled.set()
        return self.drain(timeout)

    def _work(self) -> None:
        while (entry := self._tasks.get()) is not None:
            if self._cancelled.is_set():
                continue
            task, on_error = entry
            try:
                task()
            except Exception as error:
                logger.exception("a write failed")
                try:
                    on_error(error)
                except Exception:  # what was written to may still be unreachable
                    logger.exception("the error handler failed too")
