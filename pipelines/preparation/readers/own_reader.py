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

from models.user_code import describe
from pipelines.errors import UserError
from pipelines.preparation.readers import READERS
from pipelines.preparation.readers.reader import Reader


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
