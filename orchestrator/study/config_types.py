"""The types inside configuration dataclasses: what a file may hold at a sequence of keys."""

from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo

from orchestrator.study.yaml_source import Keys


def field_names_at(config: type[Any], keys: Keys) -> list[str]:
    """Return the keys of the dataclass at `keys` below `config`; empty if none is there."""
    inner = _dataclass_in(type_at(config, keys))
    return list(_types_by_key(inner)) if inner is not None else []


def tuple_length_at(config: type[Any], keys: Keys) -> int:
    """Return the length of the tuple type at `keys` below `config`."""
    kinds = union_members(type_at(config, keys))
    return next(len(get_args(kind)) for kind in kinds if get_origin(kind) is tuple)


def type_at(config: type[Any], keys: Keys) -> Any:
    """Return the type at `keys` below the dataclass `config`; None if it is unknown."""
    kind: Any = config
    for key in keys:
        kind = _inner_type(kind, key)
    return kind


def _inner_type(kind: Any, key: str | int) -> Any:
    """Return the type of `key` in a value of type `kind`; None if it is unknown."""
    if get_origin(kind) in (Union, UnionType):
        lists = [member for member in get_args(kind) if get_origin(member) in (list, tuple)]
        kind = lists[0] if isinstance(key, int) and lists else _dataclass_in(kind)
    if is_dataclass(kind):
        return _types_by_key(kind).get(str(key))
    # The last type argument of a list, tuple or dict is the type of its values.
    members = [member for member in get_args(kind) if member is not Ellipsis]
    return members[-1] if members else None


def _types_by_key(config: Any) -> dict[str, Any]:
    """Return the type of each field of a dataclass by its key in a file, which may be an alias."""
    hints = get_type_hints(config, include_extras=True)
    plain = get_type_hints(config)
    types = {}
    for entry in fields(config):
        extras = get_args(hints[entry.name]) if get_origin(hints[entry.name]) is Annotated else ()
        alias = next((e.alias for e in extras if isinstance(e, FieldInfo) and e.alias), None)
        types[alias or entry.name] = plain[entry.name]
    return types


def _dataclass_in(kind: Any) -> Any:
    """Return `kind`, or the member of the union `kind`, that is a dataclass; None if none is."""
    return next((member for member in union_members(kind) if is_dataclass(member)), None)


def union_members(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, or `kind` itself."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
