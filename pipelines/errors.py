"""User errors, and how a command turns its errors into a message and an exit status."""

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

EXIT_FAILED = 1
# argparse's own status for options it rejects.
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """An error that the user can correct.

    The message says what is wrong, the received value and what to do; commands print it without a
    traceback. Every other exception counts as a bug.
    """


# PyTorch reports a failed allocation as a RuntimeError with one of these texts.
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cuda_error_out_of_memory",
)

# CUDA's descriptions of errors that the hardware or its driver causes, see `cudaError` in the CUDA
# Runtime API.
_GPU_FAULTS = (
    "uncorrectable ecc error",
    "uncorrectable nvlink error",
    "hardware stack error",
    "gpu is lost",
    "cuda error: unknown error",
    "no cuda-capable device is detected",
    "cuda-capable device(s) is/are busy or unavailable",
    "all cuda-capable devices are busy or unavailable",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on the CPU or on a GPU."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)
    )


def is_gpu_fault(error: BaseException) -> bool:
    """Whether a GPU or its driver failed, and not the computation."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _GPU_FAULTS)


# SQLite, and libraries in other languages, report a full disk with one of these texts.
_DISK_FULL = ("no space left on device", "disk is full", "disk quota exceeded")


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from or during, is the lack of disk space."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, OSError) and current.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(current).lower() for words in _DISK_FULL):
            return True
        current = current.__cause__ or current.__context__
    return False


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
) -> int:
    """Run a command and return its exit status.

    work: the command; returns its own status.
    report: prints an error from a heading and a message (which may be empty).
    interrupted: printed after Ctrl-C, or after SIGTERM or SIGHUP, which act alike: temporary files
    are deleted.

    A UserError, and an OSError that names a file, gives EXIT_BAD_INPUT and a message; Ctrl-C gives
    EXIT_INTERRUPTED; a closed output pipe gives EXIT_FAILED silently; lack of memory or of disk
    space gives EXIT_FAILED and a message. Any other exception is a bug: a traceback, one line, and
    EXIT_FAILED.
    """
    open_closed_streams()
    try:
        with _signals_interrupt():
            status = work()
        sys.stdout.flush()  # so that a closed pipe shows up here, not while Python exits
        return status
    except UserError as error:
        report("error", str(error))
        return EXIT_BAD_INPUT
    except BrokenPipeError:
        _discard_output()
        return EXIT_FAILED
    except OSError as error:
        if error.filename is None and is_disk_full(error):
            report("error", "the disk is full; make room and run the same command again")
            return EXIT_FAILED
        if error.filename is None and error.errno == errno.EFBIG:
            report("error", "a file exceeds the size limit; raise it (`ulimit -f`), and run again")
            return EXIT_FAILED
        if error.filename is None:
            return _internal_error(error, report)
        place = error.filename2 or error.filename  # a copy names its source, then its destination
        report("error", f"{os.fsdecode(place)}: {error.strerror or error}")
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        report(interrupted, "")
        return EXIT_INTERRUPTED
    except Exception as error:
        if not is_out_of_memory(error):
            return _internal_error(error, report)
        cause = next(iter(str(error).splitlines()), "") or type(error).__name__
        report("not enough memory", f"{cause}; sliding windows or smaller batches need less")
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


def _discard_output() -> None:
    """Send further output to the null device: Python flushes it again on exit, and would complain.

    See "Note on SIGPIPE" in the documentation of Python's `signal`.
    """
    with suppress(OSError):  # standard output may not be a file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
