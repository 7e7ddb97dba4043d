"""Partial experiments: held against the keys there are, laid over each other, and read as one."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from models import FENetConfig
from orchestrator.study.user_code import check_network_config
from orchestrator.study.validation import closest, validate
from orchestrator.study.yaml_source import (
    Keys,
    Problem,
    Source,
    SourceLocation,
    StudyError,
    single_value,
)
from pipelines.network.build import ModelConfig, NetworkConfig
from pipelines.training.experiment import Experiment

# Below it stands whatever the constructor of a network of the user's own takes.
_FREE = "model.arguments"


def laid_over(below: Source, above: Source) -> Source:
    """`above` over `below`; a network of the user's own takes nothing from another network."""
    model = above.value.get("model") if isinstance(above.value, dict) else None
    if isinstance(model, dict) and "network" in model and "model" in below.value:
        below = below.without("model")
    return below.merged(above)


def read_experiment(source: Source) -> Experiment:
    """Validate an experiment. `model` is FENet's configuration, or names a network of the user's
    own: `package.module:Class`, or a mapping of `network` and `arguments`. Raises StudyError."""
    model = source.value.get("model", {})
    if isinstance(model, str) and ":" in model:
        source = source.merged(single_value("model.network", model, source.place(("model",))))
        model = source.value["model"]
    own = source.subtree(("model",)) if "model" in source.value else Source(source.name, {})
    problems: list[Problem] = []
    config: ModelConfig = FENetConfig()
    experiment = Experiment()
    # Apart, so that a mistake in one kind of network is not reported as one in the other.
    try:
        if isinstance(model, dict) and "network" in model:
            config = validate(own, NetworkConfig, prefix="model")
            check_network_config(config, own)
        else:
            config = validate(own, FENetConfig, prefix="model")
    except StudyError as error:
        problems += error.problems
    try:
        experiment = validate(source.without("model"), Experiment)
    except StudyError as error:
        problems += error.problems
    if problems:
        raise StudyError(problems)
    return replace(experiment, model=config)


def without_unknown_keys(source: Source, problems: list[Problem]) -> Source:
    """A partial experiment without the keys that no experiment has, which go to `problems`."""
    if not isinstance(source.value, dict):
        return source
    return source.reduced(_known_part(source.value, (), source, problems))


def unknown_key(dotted: str, place: SourceLocation) -> Problem | None:
    """What is wrong with a dotted key of an experiment; None where there is such a key."""
    if dotted in known_keys() or dotted.startswith(f"{_FREE}."):
        return None
    if dotted == "seed":
        return Problem(place, "list seeds under `seeds` of the study; they are no other value")
    return Problem(place, f"unknown key `{dotted}`; {_suggestion(dotted)}")


@cache
def known_keys() -> dict[str, bool]:
    """Every dotted key of an experiment but `seed`, and whether it holds further keys."""
    return {name: inner for name, inner in _keys_below(Experiment, "") if name != "seed"}


def dotted_leaves(value: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of all values in nested mappings."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from dotted_leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    elif prefix:
        yield prefix


def _known_part(
    value: dict[str, Any], above: Keys, source: Source, problems: list[Problem]
) -> dict[str, Any]:
    kept = {}
    for key, inner in value.items():
        keys = (*above, key)
        dotted = ".".join(map(str, keys))
        problem = unknown_key(dotted, source.place(keys))
        if problem is None and "." in key:
            first, _, rest = key.partition(".")
            told = (
                f"`{key}` must be nested here: `{first}: {{{rest}: ...}}`; keys with dots are for "
            )
            problem = Problem(source.place(keys), told + "`grid`, conditions and --set")
        if problem is not None:
            problems.append(problem)
        elif isinstance(inner, dict) and known_keys().get(dotted) and not _is_own_network(inner):
            kept[key] = _known_part(inner, keys, source, problems)
        else:
            kept[key] = inner
    return kept


def _is_own_network(value: dict[str, Any]) -> bool:
    """Whether a mapping is a `model` that `NetworkConfig` describes, which knows its own keys."""
    return "network" in value


def _suggestion(dotted: str) -> str:
    """The key that was meant, as written from the top, and those that stand beside it."""
    above, _, last = dotted.rpartition(".")
    parts = {key: key.rpartition(".") for key in known_keys()}
    beside = {name: key for key, (parent, _, name) in parts.items() if parent == above}
    elsewhere = [key for key, (_, _, name) in parts.items() if name == last]
    close = closest(last, list(beside))
    meant = [beside[close]] if close else elsewhere
    told = f"did you mean {' or '.join(f'`{key}`' for key in meant)}? " if meant else ""
    names = beside or [key for key in known_keys() if "." not in key]
    return f"{told}known{' here' if beside else ''}: {', '.join(names)}"


def _keys_below(config: Any, prefix: str) -> Iterator[tuple[str, bool]]:
    hints = get_type_hints(config)
    for entry in fields(config):
        name = f"{prefix}{entry.name}"
        inner = _dataclasses_in(hints[entry.name])
        yield name, bool(inner)
        for each in inner:
            yield from _keys_below(each, f"{name}.")


def _dataclasses_in(kind: Any) -> list[Any]:
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return [member for member in members if is_dataclass(member)]
