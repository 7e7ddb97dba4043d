"""Calls code that this project does not control: classes of the user and of libraries."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def failures_as(kind: Callable[[str], Exception], what: str) -> Iterator[None]:
    """Raise `kind("WHAT (TYPE: MESSAGE)")` for any error within this context, also for the
    SystemExit of a script that exits.

    what: the class, and what it failed to do.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        raise kind(f"{what} ({describe(error)})") from error


def describe(error: BaseException) -> str:
    """Return an exception's type and message in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
