"""Turns a study that is a mapping in Python into plain values, as a study file has them."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from orchestrator.study.yaml_source import (
    Problem,
    Source,
    SourceLocation,
    StudyError,
    value_problem,
)

_MAX_DEPTH = 100


def mapping_source(values: Mapping[str, Any], name: str) -> Source:
    """Return a study given as a mapping in Python; messages call it `name`. Keys and paths become
    text, tuples and arrays become lists. Raises StudyError for other types."""
    problems: list[Problem] = []

    def plain(value: Any, key: str, *around: Any) -> Any:
        if any(value is each for each in around):
            return report(f"`{key[1:]}` contains itself; write its values out")
        if len(around) == _MAX_DEPTH:
            return report(f"`{key[1 : key.find('.', 1)]}` is nested too deeply to be read")
        if isinstance(value, Mapping):
            entries: dict[str, Any] = {}
            for inner, each in value.items():
                if problem := value_problem(inner):
                    report(f"a key{f' of `{key[1:]}`' if key else ''}: {problem}")
                elif (text := str(_builtin(inner))) in entries:
                    report(f"duplicate key `{f'{key}.{text}'[1:]}`; keep one of them")
                else:
                    entries[text] = plain(each, f"{key}.{text}", value, *around)
            return entries
        if isinstance(value, list | tuple | range):
            return [
                plain(each, f"{key}.{index}", value, *around) for index, each in enumerate(value)
            ]
        if isinstance(value, PurePath):
            return plain(str(value), key)
        if hasattr(value, "tolist"):  # arrays, and their scalars, some of which are floats
            try:
                listed = _listed(value)
            except RuntimeError as error:  # such as a tensor without storage
                return report(
                    f"`{key[1:]}` cannot be read: {error}; use text, a number, a list or a dict"
                )
            if type(listed) is not type(value):  # unlike that of a long double
                return plain(listed, key)
        if not isinstance(value, str | int | float | None):
            kind = type(value).__name__
            return report(f"`{key[1:]}` is a {kind}; use text, a number, a list or a dict")
        if problem := value_problem(value):
            return report(f"`{key[1:]}`: {problem}")
        return _builtin(value)

    def report(message: str) -> None:
        problems.append(Problem(SourceLocation(name), message))

    source = Source(name, plain(values, ""))
    if problems:
        raise StudyError(problems)
    return source


def _builtin(value: Any) -> Any:
    """Return text or a number of a subclass, such as a member of an enumeration, as one of Python's
    own types; another value as it is."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float.__float__(value)
    return int.__int__(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _listed(array: Any) -> Any:
    """Return an array as nested lists, a scalar as a number: the shortest decimal that it stands
    for, so that 0.001 as float32 is not 0.0010000000474974513."""
    values, dtype = array.tolist(), str(getattr(array, "dtype", "")).rpartition(".")[2]
    if dtype not in ("float16", "float32"):
        return values
    import numpy as np  # the array's own library, or one that it needs

    return np.array(values, dtype).astype(str).astype(float).tolist()
