"""Imports of the libraries that a command needs once its arguments are parsed."""

import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SignalHandler = Callable[[int, FrameType | None], object]

_DELAY_SECONDS = 0.1  # until a signal that struck within an import is sent again


@contextmanager
def importing_libraries() -> Iterator[None]:
    """Import large libraries within this context: without garbage collections, which find nothing
    in half-built modules and take a fifth of the time, and never scan these modules again."""
    modules, is_enabled = len(sys.modules), gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > modules:
            gc.freeze()
        if is_enabled:
            gc.enable()


def after_imports(handle: _SignalHandler) -> _SignalHandler:
    """Return a signal handler that calls `handle`, but not within an import that begins later: a
    library that is half imported stays broken in a process that continues, such as a notebook's."""
    outer = _imports(sys._getframe())

    def handle_later(number: int, frame: FrameType | None) -> None:
        if _imports(frame) <= outer:
            handle(number, frame)
            return
        main = threading.main_thread().ident
        timer = threading.Timer(_DELAY_SECONDS, signal.pthread_kill, (main, number))
        timer.daemon = True
        timer.start()

    return handle_later


@contextmanager
def whole_imports() -> Iterator[None]:
    """Within this context, an interrupt waits until the current import ends."""
    handle = signal.getsignal(signal.SIGINT)
    if not callable(handle) or threading.current_thread() is not threading.main_thread():
        yield  # nothing strikes within this thread's imports
        return
    signal.signal(signal.SIGINT, after_imports(handle))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handle)


def _imports(frame: FrameType | None) -> int:
    """Return the number of imports, one inside the other, in which a frame is."""
    count = 0
    while frame is not None:
        count += frame.f_code.co_filename == "<frozen importlib._bootstrap>"
        frame = frame.f_back
    return count
