"""Writing files in a thread of its own, while the training goes on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class BackgroundWriter:
    """Does one piece of work at a time. Use it as a context: leaving it waits for the last one."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._pending: Future[None] | None = None

    def wait(self) -> None:
        """Wait until what was started is done. Raises what it raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def start(self, work: Callable[[], None]) -> None:
        """Begin `work`, once what was started before is done. Raises what that raised."""
        self.wait()
        self._pending = self._thread.submit(work)

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            # Also behind an error of the training, the checkpoint under way is completed.
            self._thread.shutdown(wait=True)
