"""Readers of the user's own, named `package.module:Class`: import, errors, and source digest."""

from __future__ import annotations

import hashlib
import sys
import traceback
from argparse import Namespace
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from models.user_code import describe
from pipelines.errors import UserError
from pipelines.preparation.labels import IGNORE
from pipelines.preparation.readers import READERS
from pipelines.preparation.readers.reader import Listing, Reader, Record
from pipelines.wording import counted


def own_reader(name: str) -> type[Reader]:
    """Import the reader `package.module:Class`.

    Raises:
        UserError: the import fails, or the class is no complete subclass of `Reader`.
    """
    try:
        reader = READERS.find(name)
    except ValueError as error:
        raise UserError(str(error)) from error
    missing = sorted(reader.__abstractmethods__)
    missing += [each for each in ("name", "help") if not hasattr(reader, each)]
    if missing:
        raise UserError(f"reader {name}: the class does not define {', '.join(missing)}")
    return reader


def construct(reader: type[Reader], arguments: Namespace) -> Reader:
    """Return a reader from its command-line arguments.

    Raises:
        UserError: the arguments cannot be used, or the user's own class raises an error.
    """
    try:
        with own_failures(reader):
            return reader.from_arguments(arguments)
    except (TypeError, AttributeError) as error:  # the call does not fit the constructor
        if not _own_files(reader):
            raise
        raise UserError(f"{reader.__name__} cannot be constructed ({describe(error)})") from error


@contextmanager
def own_failures(reader: type[Reader]) -> Iterator[None]:
    """Turn an error in the code of the user's own reader into one that names its file and line.

    Raises:
        UserError: code of the reader has raised anything but UserError, OSError and MemoryError.
    """
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        files = {str(file) for file in _own_files(reader)}
        frames = [each for each in traceback.extract_tb(error.__traceback__) if each[0] in files]
        if not frames:
            raise
        place = f"{frames[-1].filename}:{frames[-1].lineno}"
        raise UserError(f"{place}: {reader.__name__} failed ({describe(error)})") from error


def check_description(reader: Reader, listing: Listing) -> None:
    """Check the name, the classes and the listing of a reader, which may be the user's own.

    Raises:
        UserError: one of them has another form than `Reader` documents.
    """
    where = f"reader {type(reader).__name__}"
    if not (_is_text(reader.name) and "/" not in reader.name):
        raise UserError(f"{where}: name must be text without a slash, received {reader.name!r}")
    names = [entry.name for entry in reader.classes]
    for entry in reader.classes:
        color = entry.color
        if not _is_text(entry.name) or names.count(entry.name) > 1:
            raise UserError(
                f"{where}: names of classes must be different texts, received {entry.name!r} "
                f"{counted(names.count(entry.name), 'time')}"
            )
        if not (
            isinstance(color, tuple)
            and len(color) == 3
            and all(type(each) is int and 0 <= each <= 255 for each in color)
        ):
            raise UserError(
                f"{where}: the color of class {entry.name!r} must be (red, green, blue), 0 to 255, "
                f"received {color!r}"
            )
    if not isinstance(listing, Listing):
        raise UserError(f"{where}: listing must return a Listing, not {type(listing).__name__}")
    for record in listing.records:
        for field in fields(record):
            value = getattr(record, field.name)
            expected = Path if field.name in ("image", "label") else str
            optional = field.name in ("label", "group")
            if not (isinstance(value, expected) or (optional and value is None)):
                raise UserError(
                    f"{where}: {field.name} of the record {record.identifier!s} must be "
                    f"{'a Path' if expected is Path else 'text'}{' or None' if optional else ''}, "
                    f"received {value!r}"
                )


def encoded_files(reader: Reader, record: Record) -> tuple[bytes, bytes | None]:
    """Return what `read` of a reader, which may be the user's own, returns.

    Raises:
        UserError: it is not the encoded image and label.
        OSError: as `read` does.
    """
    files = reader.read(record)
    if not (
        isinstance(files, tuple)
        and len(files) == 2
        and isinstance(files[0], bytes)
        and isinstance(files[1], bytes | None)
    ):
        given = files if isinstance(files, tuple) else (files,)
        raise UserError(
            f"reader {type(reader).__name__}: read must return the bytes of an encoded image and "
            f"of its label or None, not {', '.join(type(each).__name__ for each in given)}"
        )
    return files


def check_label(reader: Reader, stored: Any, values: Any) -> None:
    """Check what `indices` and `values` of a reader return.

    Raises:
        UserError: it has another form than `Reader` documents.
    """
    where = f"reader {type(reader).__name__}"
    is_array = isinstance(stored, np.ndarray)
    if not (is_array and stored.ndim == 2 and np.can_cast(stored.dtype, np.uint16)):
        form = f"{stored.dtype} {stored.shape}" if is_array else repr(stored)
        raise UserError(f"{where}: indices must return an array of uint16 (H, W), received {form}")
    if not (isinstance(values, Mapping) and values):
        raise UserError(f"{where}: values must map stored values to classes, received {values!r}")
    known = {*range(len(reader.classes)), IGNORE}
    for value, index in values.items():
        are_numbers = all(isinstance(each, int | np.integer) for each in (value, index))
        if not (are_numbers and 0 <= value < 65536 and index in known):
            raise UserError(
                f"{where}: values must map numbers from 0 to 65535 to indices of the "
                f"{len(reader.classes)} classes or {IGNORE}, received {value!r}: {index!r}"
            )


def _is_text(name: object) -> bool:
    return isinstance(name, str) and bool(name.strip())


def own_recipe(reader: Reader) -> list[str]:
    """Return what decides how the user's own reader reads: the digests of its source files, and its
    arguments; an empty list for a built-in reader."""
    files = _own_files(type(reader))
    if not files:
        return []
    arguments = {each.name: getattr(reader, each.name) for each in fields(reader)}
    texts = [
        f"{name}={_text(name, value)}" for name, value in arguments.items() if name != "source"
    ]
    return [*(hashlib.sha256(file.read_bytes()).hexdigest() for file in files), *texts]


def _text(name: str, value: object) -> str:
    """Return a text that is the same for equal values in every process. Raises UserError."""
    if value is None or isinstance(value, str | bytes | bool | int | float | Path):
        return repr(value)
    if isinstance(value, Mapping):
        pairs = [f"{_text(name, key)}: {_text(name, each)}" for key, each in value.items()]
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_text(name, each) for each in value)}]"
    if isinstance(value, Set):
        return f"{{{', '.join(sorted(_text(name, each) for each in value))}}}"
    raise UserError(
        f"reader: the field {name} is a {type(value).__name__}, which has no text that identifies "
        "it; a field must be text, a number, a path, or a collection of these"
    )


def _own_files(reader: type[Reader]) -> list[Path]:
    """Return the files of the class and its base classes, except this project's and Python's."""
    names = dict.fromkeys(cls.__module__ for cls in reader.__mro__)
    known = {"pipelines", *sys.stdlib_module_names}
    modules = [sys.modules[name] for name in names if name.partition(".")[0] not in known]
    files = [getattr(module, "__file__", None) for module in modules]  # a notebook has none
    return [Path(file) for file in files if file is not None and Path(file).is_file()]
