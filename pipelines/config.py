"""Plain values to the configuration dataclasses, with nothing but the standard library.

For the command that trains one experiment on a machine with little installed; studies are validated
by `orchestrator.study.validation`, which knows lines and suggestions.
"""

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from pipelines.errors import UserError

Config = TypeVar("Config")


class ConfigurationError(UserError, ValueError):
    """A value that a configuration does not take; the message names its key and what would work."""


def configure(config: type[Config], values: object, key: str = "") -> Config:
    """An instance of the dataclass `config` from nested mappings, lists and scalars.

    key: dotted keys above the values, for messages. Nothing is converted but lists to tuples and
    whole numbers to floats. Raises ConfigurationError.
    """
    name = key or "the experiment"
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{name} must be a mapping, received {values!r}")
    known = [field.name for field in fields(config)]  # type: ignore[arg-type]
    for unknown in values.keys() - set(known):
        raise ConfigurationError(
            f"unknown key {_joined(key, str(unknown))}; known: {', '.join(known)}"
        )
    hints = get_type_hints(config)
    arguments = {
        field: _value(hints[field], value, _joined(key, field)) for field, value in values.items()
    }
    try:
        return config(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{name}: {error}") from error


def _value(kind: Any, value: Any, key: str) -> Any:
    if is_dataclass(kind) and isinstance(kind, type):
        return configure(kind, value, key)
    origin, members = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _union(members, value, key)
    if origin is Literal:
        if value in members:
            return value
        raise ConfigurationError(f"{key} is {value!r}; known: {', '.join(map(str, members))}")
    if origin is tuple:
        return _tuple(members, value, key)
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return dict(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    # True is an int to Python, but not to a person who wrote `epochs`.
    is_other_bool = isinstance(value, bool) and kind is not bool
    if isinstance(kind, type) and isinstance(value, kind) and not is_other_bool:
        return value
    expected = getattr(kind, "__name__", str(kind))
    raise ConfigurationError(f"{key} must be {expected}, received {value!r}")


def _union(members: tuple[Any, ...], value: Any, key: str) -> Any:
    if value is None and type(None) in members:
        return None
    others = [member for member in members if member is not type(None)]
    configurations = [member for member in others if is_dataclass(member)]
    if len(configurations) > 1 and isinstance(value, Mapping):
        # The one that knows the most of the keys is the one that was meant.
        def shared(member: Any) -> int:
            return len(value.keys() & {field.name for field in fields(member)})

        return _value(max(configurations, key=shared), value, key)
    return _value(others[0], value, key)


def _tuple(members: tuple[Any, ...], value: Any, key: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigurationError(f"{key} must be a list, received {value!r}")
    if len(members) == 2 and members[1] is Ellipsis:
        kinds = [members[0]] * len(value)
    elif len(members) == len(value):
        kinds = list(members)
    else:
        raise ConfigurationError(f"{key} must have {len(members)} values, received {value!r}")
    return tuple(
        _value(kind, inner, f"{key}.{index}")
        for index, (kind, inner) in enumerate(zip(kinds, value, strict=True))
    )


def _joined(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


class CoreLoader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's scalars."""


CoreLoader.yaml_implicit_resolvers = {}

for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
):
    CoreLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
    )


def _core_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(str(node.value))


CoreLoader.add_constructor("tag:yaml.org,2002:int", _core_int)
