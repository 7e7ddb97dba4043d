"""Imports of the libraries that a command needs once its arguments are parsed."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


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
