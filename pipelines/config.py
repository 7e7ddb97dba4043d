"""Build the configuration dataclasses from plain values; read and write YAML 1.2 scalars.

`pipelines.train` and `pipelines.serving` use it where only PyYAML is installed. Study files are
validated by `orchestrator.study.validation`, whose messages have line numbers and suggestions.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from pipelines.errors import UserError

Config = TypeVar("Config")


class ConfigurationError(UserError, ValueError):
    """An invalid value in a configuration; the message names its key and the valid values."""


def configure(config: type[Config], values: object, key: str = "") -> Config:
    """Build the dataclass `config` from nested mappings, lists and scalars.

    Converts lists to tuples and whole numbers to floats, and nothing else. Raises
    ConfigurationError.

    key: dotted key of `values` in the file, for messages.
    """
    name = key or "the experiment"
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{name} must be a mapping, received {values!r}")
    names = [field.name for field in fields(config)]  # type: ignore[arg-type]
    for unknown in values.keys() - set(names):
        raise ConfigurationError(
            f"unknown key {_joined(key, str(unknown))}; known: {', '.join(names)}"
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
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigurationError(f"{key} must be finite, received {value}")
    # In Python, True is an int; `epochs: true` is still an error.
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
    if configurations and isinstance(value, Mapping):
        # Take the dataclass that has the most of the given keys.
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


def flattened(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys and the values of nested mappings; lists and empty mappings are values.

    prefix: of all keys, with a dot at its end.
    """
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _joined(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


class CoreLoader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2, in which `on` and `no` are strings.

    Unlike PyYAML's loader, it raises a ConstructorError if a mapping has a key twice.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            repeated = next(i for i, key in enumerate(keys) if key in keys[:i])
            raise yaml.constructor.ConstructorError(
                problem=f"the key {keys[repeated]!r} occurs twice; keep one of them",
                problem_mark=node.value[repeated][0].start_mark,
            )
        return mapping


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


def _core_int(_loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(str(node.value))


CoreLoader.add_constructor("tag:yaml.org,2002:int", _core_int)


class CoreDumper(yaml.SafeDumper):
    """PyYAML's safe dumper for `CoreLoader`.

    Quotes text that YAML 1.2 or 1.1 reads as another type, such as `1e-4` (a number in 1.2) and
    `no` (false in 1.1).
    """

    def ignore_aliases(self, data: Any) -> bool:
        """Write a value that occurs twice in full each time, instead of as an alias."""
        return True


CoreDumper.yaml_implicit_resolvers = {
    first: [
        *CoreLoader.yaml_implicit_resolvers.get(first, []),
        *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
    ]
    for first in CoreLoader.yaml_implicit_resolvers.keys()
    | yaml.SafeDumper.yaml_implicit_resolvers.keys()
}

# PyYAML writes these line breaks unescaped outside double quotes, and reads them as spaces.
_UNICODE_BREAKS = frozenset("\x85\u2028\u2029")


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if _UNICODE_BREAKS.isdisjoint(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


CoreDumper.add_representer(str, _represent_text)


def dump_yaml(value: object, width: int = 80, flow_lists: bool = False) -> str:
    """Return nested dictionaries, lists and scalars as YAML, which `load_yaml` reads unchanged.

    Tuples become lists. width: longest line, unless a word is longer. flow_lists: write lists and
    mappings of scalars on one line, as `[1, 2]`.
    """
    text: str = yaml.dump(
        value,
        Dumper=CoreDumper,
        sort_keys=False,
        allow_unicode=True,
        width=width,
        default_flow_style=None if flow_lists else False,
    )
    return text


def load_yaml(text: str) -> Any:
    """Return the value of a YAML document. Raises yaml.YAMLError if it is not valid."""
    return yaml.load(text, CoreLoader)
