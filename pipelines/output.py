"""Standard output and error that may not be writable: a full disk, or a reader that is gone."""

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, TextIO, cast


class OutputError(Exception):
    """Standard output cannot be written; standard error says so, unless its reader is gone."""


class OutputStream(io.FileIO):
    """An output stream that discards what cannot be written.

    On the first failure, it prints a sentence to the descriptor `errors`, but not if the reader is
    gone, and raises OutputError unless `continues` says what happens instead. Without `errors`, it
    does neither. `failed` says whether there was a failure with `errors`.
    """

    def __init__(
        self,
        descriptor: int,
        errors: int | None = None,
        continues: str = "",
        closefd: bool = False,
    ) -> None:
        """closefd: whether the descriptor is closed with the stream."""
        super().__init__(descriptor, "w", closefd)
        self._errors = errors
        self._continues = continues
        self.failed = False

    def write(self, data: Any) -> int:
        """Write all of `data`, or as much as possible; return its length in bytes."""
        remaining = memoryview(data).cast("B")
        length, failure = len(remaining), None
        try:
            while remaining:
                written = super().write(remaining)
                if written is None:  # a pipe that does not block is full
                    select.select([], [self], [])
                remaining = remaining[written or 0 :]
        except OSError as error:
            failure = error
        # Outside the handler, so that the OSError is not the context of the OutputError.
        if failure is not None and not self.failed and self._errors is not None:
            self.failed = True
            self._report(failure, self._errors)
        return length

    def _report(self, failure: OSError, errors: int) -> None:
        if failure.errno != errno.EPIPE:
            heading, end = ("warning", f"; {self._continues}") if self._continues else ("error", "")
            text = f"{heading}: standard output{self._place()} cannot be written: "
            with suppress(OSError):
                os.write(errors, f"{text}{failure.strerror}{end}\n".encode(errors="replace"))
        if not self._continues:
            raise OutputError

    def _place(self) -> str:
        """Return the file that the stream writes to, in parentheses; empty for a pipe."""
        try:
            path = os.readlink(f"/proc/self/fd/{self.fileno()}")
        except OSError:
            return ""
        return f" ({path})" if path.startswith("/") else ""


@contextmanager
def guarded_output(continues: str = "") -> Iterator[OutputStream]:
    """Within this context, let standard output behave as an `OutputStream` does, and let standard
    error discard what cannot be written. Streams that a caller has replaced stay as they are.

    Yields the stream of standard output.
    """
    streams = sys.stdout, sys.stderr
    output = OutputStream(1, errors=2, continues=continues)
    sys.stdout = _guarded(sys.stdout, 1, output)
    sys.stderr = _guarded(sys.stderr, 2, OutputStream(2))
    try:
        yield output
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OutputError):  # standard error says so
                stream.flush()
        sys.stdout, sys.stderr = streams


def _guarded(stream: TextIO, descriptor: int, raw: OutputStream) -> TextIO:
    """Return a text stream like `stream` that writes to `raw`; `stream` itself if it writes
    elsewhere or is guarded."""
    if not isinstance(stream, io.TextIOWrapper) or not is_descriptor(stream, descriptor):
        return stream
    if isinstance(getattr(stream.buffer, "raw", stream.buffer), OutputStream):
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def is_descriptor(stream: TextIO, number: int) -> bool:
    """Whether a stream writes to this file descriptor; that of a notebook does not."""
    try:
        return stream.fileno() == number
    except (AttributeError, OSError, ValueError):
        return False


def text_stream(raw: OutputStream, encoding: str | None = None, unbuffered: bool = False) -> TextIO:
    """Return a text stream that writes each line to `raw`, or everything at once."""
    return io.TextIOWrapper(
        cast("BinaryIO", raw),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=True,
        write_through=unbuffered,
    )
