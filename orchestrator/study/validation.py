"""Plain values to configuration dataclasses, with errors a user can act on.

pydantic checks; this module turns what it finds into the place in the file, what was received
and what would work.
"""

import difflib
import json
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from inspect import isclass
from types import UnionType
from typing import (
    Annotated,
    Any,
    Generic,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from orchestrator.study.yaml_source import Keys, Problem, Source, StudyError

Config = TypeVar("Config")

_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
_MISSING = ("missing", "missing_argument")
# pydantic's kinds of errors, in the words of the file.
_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "too_short": "anything but empty",
}
# In the keys of a stand-in, any name.
ANY = "*"


def validate(source: Source, config: type[Config], prefix: str = "") -> Config:
    """`source` as an instance of the dataclass `config`.

    prefix: dotted keys above the tree, for messages. Raises StudyError with all problems at once.
    """
    examined = examine(source, config, prefix)
    if examined.problems or examined.value is None:
        raise StudyError(examined.problems)
    return examined.value


@dataclass(frozen=True)
class Examined(Generic[Config]):
    """What a tree comes to. value: of what is right in it, None where a needed part is wrong;
    source: the tree without what is wrong, which `removed` names."""

    value: Config | None
    source: Source
    problems: list[Problem]
    removed: frozenset[Keys] = frozenset()


def examine(
    source: Source,
    config: type[Config],
    prefix: str = "",
    stand_ins: Mapping[Keys, Any] | None = None,
) -> Examined[Config]:
    """`source` as an instance of the dataclass `config`, with all that is wrong with it.

    What is wrong is taken out and the rest is looked at again, because a dataclass checks its
    values only once all of its keys are known, and then names one of them.

    stand_ins: what takes the place of a wrong part that others refer to by its name, by its keys.
    """
    stand_ins = stand_ins or {}
    problems: dict[Problem, None] = {}
    removed: set[Keys] = set()
    for keys in _not_finite(source.value):
        told = f"`{_dotted(keys, prefix)}` must be finite; .inf and .nan are not accepted"
        problems[Problem(source.place(keys), told)] = None
        removed.add(_in_mapping(keys))
    source = _mended(source, removed, stand_ins)
    while True:
        text = json.dumps({} if source.value is None else source.value)
        try:
            # JSON in strict mode: lists become tuples and 1 becomes 1.0, but "8" is no number.
            value = _adapter(cast(Hashable, config)).validate_json(text, strict=True)
            return Examined(value, source, list(problems), frozenset(removed))
        except ValidationError as invalid:
            doubtful: set[Keys] = set()
            for error in invalid.errors():
                keys = _existing_keys(error["loc"], source)
                blamed = _blamed(error, keys, source)
                # Not told again where it only lacks what was taken out of it.
                if not any(blamed == each[: len(blamed)] for each in removed):
                    problems[_problem(error, source, config, prefix)] = None
                whole = keys if error["type"] in _MISSING else blamed
                completed = _stand_in(blamed, stand_ins) is not None
                doubtful.add(blamed if completed else _in_mapping(whole))
        if () in doubtful or doubtful <= removed:
            return Examined(None, source, list(problems), frozenset(removed))
        removed |= doubtful
        source = _mended(source, doubtful, stand_ins)


def _not_finite(value: Any, at: Keys = ()) -> Iterator[Keys]:
    """The keys of numbers that are none."""
    if isinstance(value, float) and not math.isfinite(value):
        yield at
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _not_finite(inner, (*at, key))


def _mended(source: Source, doubtful: set[Keys], stand_ins: Mapping[Keys, Any]) -> Source:
    """`source` without what is doubtful, or with what stands in for it."""
    source = source.reduced(_without(source.value, (), doubtful))
    for keys in doubtful:
        tree = _stand_in(keys, stand_ins)
        if tree is not None:
            for key in reversed(keys):
                tree = {key: tree}
            source = source.merged(Source(source.name, tree))
    return source


def _stand_in(keys: Keys, stand_ins: Mapping[Keys, Any]) -> Any:
    """What takes the place of a part; None where nothing does."""
    for pattern, value in stand_ins.items():
        if len(pattern) == len(keys) and all(
            wanted in (ANY, key) for wanted, key in zip(pattern, keys, strict=True)
        ):
            return value
    return None


@cache
def _adapter(config: Any) -> TypeAdapter[Any]:
    """Made once: it takes longer than a thousand validations."""
    return TypeAdapter(config)


def check_arguments(function: Callable[..., Any], source: Source) -> None:
    """Hold `source`, a mapping of arguments, against the annotations of `function`.

    Arguments without an annotation may be anything. Raises StudyError.
    """
    hints = get_type_hints(function.__init__ if isclass(function) else function)
    problems = []
    for name, value in source.value.items():
        if name not in hints:
            continue
        try:
            TypeAdapter(hints[name]).validate_json(json.dumps(value), strict=True)
        except ValidationError as invalid:
            for error in invalid.errors():
                told = f"`{name}` {_expected(error)}, received {shown(error['input'])}"
                problems.append(Problem(source.place((name,)), told))
    if problems:
        raise StudyError(problems)


def closest(received: str, known: Sequence[str]) -> str | None:
    """The one of `known` that was probably meant, upper and lower case alike; None if none is."""
    lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(received.lower(), lower, n=1, cutoff=0.6)
    return lower[close[0]] if close else None


def suggestion(received: str, known: list[str]) -> str:
    """`did you mean ...?` where one of `known` is close, and what would work."""
    found = closest(received, known)
    start = f"did you mean `{found}`? " if found else ""
    return f"{start}known: {', '.join(known)}"


def _problem(error: ErrorDetails, source: Source, config: type[Any], prefix: str) -> Problem:
    keys = _existing_keys(error["loc"], source)
    place = source.place(keys)
    name = _dotted(keys, prefix)
    kind, received = error["type"], error["input"]
    if kind in _UNKNOWN:
        known = _field_names(config, keys[:-1])
        return Problem(place, f"unknown key `{name}`; {suggestion(str(keys[-1]), known)}")
    if kind in _MISSING and isinstance(error["loc"][-1], int):
        told = f"`{name}` needs {_length(config, keys)} values, received {shown(received)}"
        return Problem(place, told)
    if kind in _MISSING:
        return Problem(place, f"`{name}` lacks `{error['loc'][-1]}`")
    if kind == "value_error":
        return _refused(str(error["ctx"]["error"]), keys, source, name)
    if kind in ("dataclass_type", "dict_type", "dataclass_exact_type"):
        known = _field_names(config, keys)
        listed = f" with {', '.join(known)}" if known else ""
        return Problem(place, f"`{name}` must be a mapping{listed}, received {shown(received)}")
    if kind == "literal_error":
        known = [
            part.strip("'") for part in error["ctx"]["expected"].replace(" or ", ", ").split(", ")
        ]
        return Problem(place, f"`{name}` is {shown(received)}; {suggestion(str(received), known)}")
    return Problem(place, f"`{name}` {_expected(error)}, received {shown(received)}")


def _dotted(keys: Keys, prefix: str) -> str:
    return ".".join([prefix] * bool(prefix) + [str(key) for key in keys]) or "the file"


def _length(config: type[Any], keys: Keys) -> int:
    """Of the tuple at `keys` below `config`."""
    kind: Any = config
    for key in keys:
        kind = _below(kind, key)
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return next(len(get_args(each)) for each in kinds if get_origin(each) is tuple)


def _expected(error: ErrorDetails) -> str:
    """What a value must be, in a word of the file's language."""
    if error["type"] in _EXPECTED:
        return f"must be {_EXPECTED[error['type']]}"
    return error["msg"].replace("Input should", "must", 1)


def _refused(message: str, keys: Keys, source: Source, name: str) -> Problem:
    """What a dataclass says of its values; it begins with the name of the field it speaks of."""
    return Problem(source.place(_spoken_of(message, keys, source)), f"`{name}`: {message}")


def _spoken_of(message: str, keys: Keys, source: Source) -> Keys:
    inner = (*keys, message.split(maxsplit=1)[0])
    return inner if inner in source.places else keys


def _blamed(error: ErrorDetails, keys: Keys, source: Source) -> Keys:
    """The node that an error is about, or that is missing."""
    if error["type"] in _MISSING and isinstance(error["loc"][-1], str):
        return (*keys, error["loc"][-1])
    if error["type"] == "value_error":
        return _spoken_of(str(error["ctx"]["error"]), keys, source)
    return keys


def _in_mapping(keys: Keys) -> Keys:
    """The nearest node at or above `keys` that is an entry of a mapping; the root as `()`."""
    while keys and isinstance(keys[-1], int):
        keys = keys[:-1]
    return keys


def _without(value: Any, at: Keys, doubtful: set[Keys]) -> Any:
    if isinstance(value, dict):
        return {
            key: _without(inner, (*at, key), doubtful)
            for key, inner in value.items()
            if (*at, key) not in doubtful
        }
    if isinstance(value, list):
        return [_without(inner, (*at, index), doubtful) for index, inner in enumerate(value)]
    return value


def _existing_keys(loc: tuple[str | int, ...], source: Source) -> Keys:
    """The part of pydantic's location that names nodes of the file; it also names union members."""
    keys: list[str | int] = []
    value: Any = source.value
    for part in loc:
        in_list = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if in_list or (isinstance(value, dict) and part in value):
            value = value[part]
            keys.append(part)
    return tuple(keys)


def _field_names(config: type[Any], keys: Keys) -> list[str]:
    """The keys of the dataclass at `keys` below `config`; none where something else stands."""
    kind: Any = config
    for key in keys:
        kind = _below(kind, key)
    found = _dataclass_in(kind)
    return list(_keys_of(found)) if found is not None else []


def _below(kind: Any, key: str | int) -> Any:
    """The type of what stands at `key` of a value of type `kind`; None where nothing is known."""
    if get_origin(kind) in (Union, UnionType):
        kinds = get_args(kind)
        lists = [member for member in kinds if get_origin(member) in (list, tuple)]
        kind = lists[0] if isinstance(key, int) and lists else _dataclass_in(kind)
    if is_dataclass(kind):
        return _keys_of(kind).get(str(key))
    # A mapping or list of one kind of value: the last type argument that is a type is that kind.
    members = [member for member in get_args(kind) if member is not Ellipsis]
    return members[-1] if members else None


def _keys_of(config: Any) -> dict[str, Any]:
    """What a file calls the fields of a dataclass, and their types."""
    hints = get_type_hints(config, include_extras=True)
    plain = get_type_hints(config)
    named = {}
    for entry in fields(config):
        extras = get_args(hints[entry.name]) if get_origin(hints[entry.name]) is Annotated else ()
        alias = next((e.alias for e in extras if isinstance(e, FieldInfo) and e.alias), None)
        named[alias or entry.name] = plain[entry.name]
    return named


def _dataclass_in(kind: Any) -> Any:
    """`kind` itself or the member of a union that is a dataclass; None if there is none."""
    if is_dataclass(kind):
        return kind
    if get_origin(kind) in (Union, UnionType):
        return next((member for member in get_args(kind) if is_dataclass(member)), None)
    return None


def shown(value: Any) -> str:
    """A value as it would stand in a file, shortened."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
