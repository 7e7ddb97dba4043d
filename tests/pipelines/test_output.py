"""Output streams whose file or reader fails."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.output import OutputError, OutputStream
from tests.support.mounts import small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of two pages."""
    with small_disk(tmp_path / "disk", "8k") as mounted:
        yield mounted


def test_stream_continues_when_there_is_room_again(disk: Path, tmp_path: Path) -> None:
    other, log, errors = disk / "other", disk / "log", tmp_path / "errors"
    other.write_bytes(bytes(4096))
    with log.open("wb") as file, errors.open("wb") as told:
        stream = OutputStream(file.fileno(), told.fileno(), "the work continues")
        assert stream.write(bytes(5000)) == 5000
        assert stream.write(b"lost") == 4
        other.unlink()
        stream.write(b"end")
    assert log.read_bytes() == bytes(4096) + b"end"
    assert errors.read_text() == (
        f"warning: standard output ({log}) cannot be written: No space left on device; "
        "the work continues\n"
    )


def test_first_failure_is_raised_once(tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    with open("/dev/full", "wb", buffering=0) as file, errors.open("wb") as told:
        stream = OutputStream(file.fileno(), told.fileno())
        with pytest.raises(OutputError) as caught:
            stream.write(b"x")
        assert stream.write(b"x") == 1
        silent = OutputStream(file.fileno())
        assert silent.write(b"x") == 1
    assert caught.value.__context__ is None  # or it would pass for a full disk of the storage
    assert errors.read_text() == (
        "error: standard output (/dev/full) cannot be written: No space left on device\n"
    )


def test_reader_that_is_gone_is_not_reported(tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    reading, writing = os.pipe()
    os.close(reading)
    with errors.open("wb") as told:
        continues = OutputStream(writing, told.fileno(), "the work continues")
        assert continues.write(b"x") == 1
        with pytest.raises(OutputError):
            OutputStream(writing, told.fileno()).write(b"x")
    os.close(writing)
    assert errors.read_text() == ""
