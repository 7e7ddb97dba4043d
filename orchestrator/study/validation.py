"""Validates plain values as configuration dataclasses and reports errors a user can act on.

pydantic validates; this module turns its errors into messages with the location in the file, the
received value and what would work.
"""

import json
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from inspect import isclass
from typing import Any, Generic, TypeVar, cast, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import ErrorDetails

from orchestrator.study.config_types import field_names_at, tuple_length_at, type_at
from orchestrator.study.yaml_source import Keys, Problem, Source, StudyError, without_nodes
from pipelines.wording import suggestion

Config = TypeVar("Config")

_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
_MISSING = ("missing", "missing_argument")
# pydantic's error types in the words of the file.
_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "too_short": "non-empty",
}
_SCALARS = ("int_type", "float_type", "bool_type", "string_type")
# Matches any name in the keys of a placeholder.
ANY = "*"


def validate(source: Source, config: type[Config], prefix: str = "") -> Config:
    """Return `source` as an instance of the dataclass `config`.

    prefix: dotted keys above the tree, for messages. Raises StudyError with all problems at once.
    """
    result = examine(source, config, prefix)
    if result.problems or result.value is None:
        raise StudyError(result.problems)
    return result.value


@dataclass(frozen=True)
class ValidationResult(Generic[Config]):
    """The outcome of validating a tree as far as possible.

    value: the instance built from the valid part; None if a required part is invalid.
    source: the tree without its invalid nodes.
    removed: the keys of the invalid nodes.
    """

    value: Config | None
    source: Source
    problems: list[Problem]
    removed: frozenset[Keys] = frozenset()


def examine(
    source: Source,
    config: type[Config],
    prefix: str = "",
    placeholders: Mapping[Keys, Any] | None = None,
) -> ValidationResult[Config]:
    """Validate `source` as the dataclass `config` and collect every problem.

    Invalid nodes are removed and the rest is validated again, because a dataclass checks its
    values only once all of its keys are known, and then reports a single one.

    placeholders: replacements, by keys, for invalid nodes that other parts refer to by name.
    """
    placeholders = placeholders or {}
    problems: dict[Problem, None] = {}
    removed: set[Keys] = set()
    for keys in _not_finite(source.value):
        message = f"`{_dotted(keys, prefix)}` must be finite; .inf and .nan are not accepted"
        problems[Problem(source.location(keys), message)] = None
        removed.add(_in_mapping(keys))
    source = _remove(source, removed, placeholders)
    while True:
        text = json.dumps({} if source.value is None else source.value)
        try:
            # JSON in strict mode: lists become tuples and 1 becomes 1.0, but "8" is not a number.
            value = _adapter(cast(Hashable, config)).validate_json(text, strict=True)
            return ValidationResult(value, source, list(problems), frozenset(removed))
        except ValidationError as invalid:
            rejected: set[Keys] = set()
            for error in _relevant(invalid.errors(), source):
                keys = _existing_keys(error["loc"], source)
                blamed = _blamed(error, keys, source)
                # A node that only misses what was removed from it is not reported again.
                if not any(blamed == each[: len(blamed)] for each in removed):
                    problems[_problem(error, source, config, prefix)] = None
                whole = keys if error["type"] in _MISSING else blamed
                replaceable = _placeholder(blamed, placeholders) is not None
                rejected.add(blamed if replaceable else _in_mapping(whole))
        if () in rejected or rejected <= removed:
            return ValidationResult(None, source, list(problems), frozenset(removed))
        removed |= rejected
        source = _remove(source, rejected, placeholders)


def _relevant(errors: Sequence[ErrorDetails], source: Source) -> Iterator[ErrorDetails]:
    """Yield the errors except those of union members of another kind than the value: members that
    are scalars for a mapping, and members that are mappings for any other value."""
    nodes = [_existing_keys(error["loc"], source) for error in errors]
    for error, keys in zip(errors, nodes, strict=True):
        has_others = sum(keys == each[: len(keys)] for each in nodes) > 1
        other_kinds = _SCALARS if isinstance(error["input"], dict) else ("dataclass_type",)
        if not (has_others and error["type"] in other_kinds):
            yield error


def _not_finite(value: Any, keys: Keys = ()) -> Iterator[Keys]:
    """Yield the keys of infinities and NaNs."""
    if isinstance(value, float) and not math.isfinite(value):
        yield keys
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _not_finite(inner, (*keys, key))


def _remove(source: Source, rejected: set[Keys], placeholders: Mapping[Keys, Any]) -> Source:
    """Return `source` without the rejected nodes, or with their placeholders."""
    source = source.pruned(without_nodes(source.value, rejected))
    for keys in rejected:
        tree = _placeholder(keys, placeholders)
        if tree is not None:
            for key in reversed(keys):
                tree = {key: tree}
            source = source.merged(Source(source.name, tree))
    return source


def _placeholder(keys: Keys, placeholders: Mapping[Keys, Any]) -> Any:
    """Return the placeholder for the node at `keys`; None if it has none."""
    for pattern, value in placeholders.items():
        if len(pattern) == len(keys) and all(
            wanted in (ANY, key) for wanted, key in zip(pattern, keys, strict=True)
        ):
            return value
    return None


@cache  # building an adapter takes longer than a thousand validations
def _adapter(config: Any) -> TypeAdapter[Any]:
    return TypeAdapter(config)


def accepts(config: type[Any], keys: Keys, value: Any) -> bool:
    """Whether the type of the field at `keys` below the dataclass `config` accepts a plain value;
    a field's type does not express every rule of its dataclass."""
    kind = type_at(config, keys)
    try:
        _adapter(kind if kind is not None else Any).validate_json(json.dumps(value), strict=True)
    except ValidationError:
        return False
    return True


def check_arguments(function: Callable[..., Any], source: Source) -> None:
    """Check `source`, a mapping of arguments, against the annotations of `function`.

    Arguments without an annotation may be anything, and so may those with an annotation that cannot
    be resolved or that plain values cannot have, such as `Callable`. Raises StudyError.
    """
    try:
        hints = get_type_hints(function.__init__ if isclass(function) else function)
    except (NameError, TypeError):  # names that are imported for type checkers only
        return
    problems = []
    for name, value in source.value.items():
        if name not in hints:
            continue
        try:
            adapter = TypeAdapter(hints[name])
        except PydanticUserError:
            continue
        try:
            adapter.validate_json(json.dumps(value), strict=True)
        except ValidationError as invalid:
            for error in invalid.errors():
                message = f"`{name}` {_expected(error)}, received {as_json(error['input'])}"
                problems.append(Problem(source.location((name,)), message))
    if problems:
        raise StudyError(problems)


def as_json(value: Any) -> str:
    """Return a value as it would be written in a file, shortened to 60 characters."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _problem(error: ErrorDetails, source: Source, config: type[Any], prefix: str) -> Problem:
    keys = _existing_keys(error["loc"], source)
    location = source.location(keys)
    name = _dotted(keys, prefix)
    kind, received = error["type"], error["input"]
    if kind in _UNKNOWN:
        known = field_names_at(config, keys[:-1])
        return Problem(location, f"unknown key `{name}`; {suggestion(str(keys[-1]), known)}")
    if kind == "too_long" or (kind in _MISSING and isinstance(error["loc"][-1], int)):
        message = f"`{name}` needs {tuple_length_at(config, keys)} values"
        return Problem(location, f"{message}, received {as_json(received)}")
    if kind in _MISSING:
        missing = f"`{error['loc'][-1]}`"
        return Problem(location, f"`{name}` lacks {missing}" if keys else f"{missing} is missing")
    if kind == "value_error":
        message = str(error["ctx"]["error"])
        return Problem(source.location(_named_key(message, keys, source)), f"`{name}`: {message}")
    if kind in ("dataclass_type", "dict_type", "dataclass_exact_type"):
        known = field_names_at(config, keys)
        listed = f" with {', '.join(known)}" if known else ""
        message = f"`{name}` must be a mapping{listed}, received {as_json(received)}"
        return Problem(location, message)
    if kind == "literal_error":
        known = [
            part.strip("'") for part in error["ctx"]["expected"].replace(" or ", ", ").split(", ")
        ]
        message = f"`{name}` is {as_json(received)}; {suggestion(str(received), known)}"
        return Problem(location, message)
    expected = _expected(error)
    if kind in _SCALARS and (known := field_names_at(config, keys)):
        expected += f" or a mapping with {', '.join(known)}"
    return Problem(location, f"`{name}` {expected}, received {as_json(received)}")


def _dotted(keys: Keys, prefix: str) -> str:
    return ".".join([prefix] * bool(prefix) + [str(key) for key in keys]) or "the file"


def _expected(error: ErrorDetails) -> str:
    """Return what a value must be, in the words of the file."""
    if error["type"] in _EXPECTED:
        return f"must be {_EXPECTED[error['type']]}"
    return error["msg"].replace("Input should", "must", 1)


def _named_key(message: str, keys: Keys, source: Source) -> Keys:
    """Return the field that a dataclass's own error message is about: its first word, if that is a
    key of the node at `keys`."""
    inner = (*keys, message.split(maxsplit=1)[0])
    return inner if inner in source.locations else keys


def _blamed(error: ErrorDetails, keys: Keys, source: Source) -> Keys:
    """Return the keys of the node that is invalid or missing."""
    if error["type"] in _MISSING and isinstance(error["loc"][-1], str):
        return (*keys, error["loc"][-1])
    if error["type"] == "value_error":
        return _named_key(str(error["ctx"]["error"]), keys, source)
    return keys


def _in_mapping(keys: Keys) -> Keys:
    """Return the nearest node at or above `keys` that is an entry of a mapping; the root as `()`.

    Removing an element of a list would renumber the others.
    """
    while keys and isinstance(keys[-1], int):
        keys = keys[:-1]
    return keys


def _existing_keys(loc: tuple[str | int, ...], source: Source) -> Keys:
    """Return the parts of pydantic's `loc` that are keys in the file; others name union members."""
    keys: list[str | int] = []
    value: Any = source.value
    for part in loc:
        in_list = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if in_list or (isinstance(value, dict) and part in value):
            value = value[part]
            keys.append(part)
    return tuple(keys)
