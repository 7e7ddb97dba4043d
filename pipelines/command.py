"""Runs a command: turns its errors into a message and an exit status."""

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipelines import wording
from pipelines.errors import UserError, is_disk_full, is_out_of_memory
from pipelines.output import OutputError, guarded_output

EXIT_FAILED = 1
# argparse's own status for options it rejects.
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def print_error(heading: str, message: str) -> None:
    """Print an error on standard error."""
    print(f"{heading}: {message}" if message else heading, file=sys.stderr, flush=True)


def open_closed_streams() -> None:
    """Connect standard streams that are closed, as by `>&-`, to the null device."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def run_command(
    work: Callable[[], int],
    report: Callable[[str, str], None] = print_error,
    interrupted: str = "interrupted",
    continues: str = "",
) -> int:
    """Run a command and return its exit status.

    work: the command; returns its own status.
    report: prints an error from a heading and a message (which may be empty).
    interrupted: printed after Ctrl-C, or after SIGTERM or SIGHUP, which act alike: temporary files
    are deleted.
    continues: printed if standard output cannot be written, while the command continues; by
    default, the command ends.

    A UserError, and an OSError that names a file, gives EXIT_BAD_INPUT and a message; Ctrl-C gives
    EXIT_INTERRUPTED; lack of memory or of disk space gives EXIT_FAILED and a message, and so does,
    without `continues`, output that cannot be written, but a closed pipe silently. Any other
    exception is a bug: a traceback, one line, and EXIT_FAILED.
    """
    open_closed_streams()
    with guarded_output(continues) as output:
        try:
            status = _status_of(work, report, interrupted)
            sys.stdout.flush()  # so that a failure shows up here, not while Python exits
        except (OutputError, BrokenPipeError):
            return EXIT_FAILED
        # The first failure may have been in another thread.
        return EXIT_FAILED if output.failed and not continues else status


def _status_of(
    work: Callable[[], int], report: Callable[[str, str], None], interrupted: str
) -> int:
    """Run a command; see `run_command`. Raises OutputError, and BrokenPipeError of any pipe."""
    try:
        with _signals_interrupt():
            return work()
    except UserError as error:
        report("error", str(error))
        return EXIT_BAD_INPUT
    except (OutputError, BrokenPipeError):
        raise
    except OSError as error:
        if error.filename is None and is_disk_full(error):
            return _disk_full(report)
        if error.filename is None and error.errno == errno.EFBIG:
            report("error", "a file exceeds the size limit; raise it (`ulimit -f`), and run again")
            return EXIT_FAILED
        if error.filename is None and not _has_working_directory():
            report("error", "the working directory was deleted; change to another one")
            return EXIT_BAD_INPUT
        if error.filename is None:
            return _internal_error(error, report)
        place = error.filename2 or error.filename  # a copy names its source, then its destination
        report("error", f"{os.fsdecode(place)}: {error.strerror or error}")
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        report(interrupted, "")
        return EXIT_INTERRUPTED
    except Exception as error:
        if is_disk_full(error):  # SQLite and other libraries raise errors of their own
            return _disk_full(report)
        if not is_out_of_memory(error):
            return _internal_error(error, report)
        report(
            "not enough memory",
            f"{wording.cause(error)}; sliding windows or smaller batches need less",
        )
        return EXIT_FAILED


def _has_working_directory() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _disk_full(report: Callable[[str, str], None]) -> int:
    report("error", "the disk is full; make room and run the same command again")
    return EXIT_FAILED


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Within this context, let SIGTERM and SIGHUP raise KeyboardInterrupt, unless they have another
    handler or are ignored, as by nohup."""
    previous = {}
    if threading.current_thread() is threading.main_thread():  # only it may set handlers
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                previous[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in previous.items():
            if signal.getsignal(number) is signal.default_int_handler:
                signal.signal(number, handler)


def _internal_error(error: Exception, report: Callable[[str, str], None]) -> int:
    traceback.print_exception(error)
    report("internal error", f"{type(error).__name__}: {error}")
    return EXIT_FAILED
