"""Partial experiments: checked for unknown keys, merged, and validated as one experiment."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, get_type_hints

from models import FENetConfig
from orchestrator.study.config_types import union_members
from orchestrator.study.user_code import check_network_config, check_training_classes
from orchestrator.study.validation import validate
from orchestrator.study.yaml_source import (
    Keys,
    Problem,
    Source,
    SourceLocation,
    StudyError,
    single_value,
    without_nodes,
)
from pipelines.config import flattened
from pipelines.network.config import ModelConfig, NetworkConfig
from pipelines.training.experiment import Experiment
from pipelines.wording import closest, option

#: Mappings whose keys may have any name: the arguments of constructors, and patterns.
OPEN_MAPPINGS = (
    "model.arguments",
    "model.backbone_arguments",
    "training.optimizer.arguments",
    "training.optimizer.rate_factors",
    "training.schedule.arguments",
)
# Settings that are a class's name, or a mapping of `name`, `arguments` and others.
_NAMED: tuple[Keys, ...] = (("training", "optimizer"), ("training", "schedule"))
# Patterns of parameters' names; null removes an inherited one, which another network may not have.
_PATTERNS: Keys = ("training", "optimizer", "rate_factors")
# Settings of an experiment that the study's own keys decide, and what to write instead.
_OF_THE_STUDY = {
    "seed": "list seeds under `seeds`",
    **dict.fromkeys(("data.folds", "data.fold", "data.fold_by"), "set folds under `folds`"),
}
# Settings of `training` that replace each other.
_LENGTHS = ("epochs", "steps")


def overlay(base: Source, override: Source) -> Source:
    """Return the partial experiment `base` overridden by `override`; see `mergeable`."""
    base, override = mergeable(base, override)
    return base.merged(override)


def mergeable(base: Source, override: Source, prefix: Keys = ()) -> tuple[Source, Source]:
    """Return two trees as they merge: `base` without what `override` does not inherit, and both
    with a mapping for the optimizer and the schedule where one of them has a mapping.

    A custom network inherits nothing from another network; another backbone, optimizer or
    schedule inherits no arguments; and `training.epochs` and `training.steps` replace each other.

    prefix: keys of the partial experiment in both trees.
    """
    chosen = _inner(override.value, (*prefix, "model"))
    if isinstance(chosen, dict) and "network" in chosen:
        base = _without(base, (*prefix, "model"))
    base = _for_other_backbone(base, override, (*prefix, "model"))
    for keys in _NAMED:
        base, override = _named_mergeable(base, override, (*prefix, *keys))
    training = _inner(override.value, (*prefix, "training"))
    if isinstance(training, dict):
        for key, other in (_LENGTHS, _LENGTHS[::-1]):
            if training.get(key) is not None and other not in training:
                base = _without(base, (*prefix, "training", other))
    return base, override


def _for_other_backbone(base: Source, override: Source, keys: Keys) -> Source:
    """Return `base` with the model at `keys` as `override` inherits it."""
    inherited, chosen = (_inner(source.value, keys) for source in (base, override))
    if not (isinstance(inherited, dict) and isinstance(chosen, dict)):
        return base
    if chosen.get("backbone") in (None, inherited.get("backbone")):
        return base
    return _without(base, (*keys, "backbone_arguments"))


def _named_mergeable(base: Source, override: Source, keys: Keys) -> tuple[Source, Source]:
    """Return two trees as their settings at `keys` merge; see `mergeable`."""
    if not any(isinstance(_inner(each.value, keys), dict) for each in (base, override)):
        return base, override
    base, override = _with_name(base, keys), _with_name(override, keys)
    name, chosen = (_inner(each.value, (*keys, "name")) for each in (base, override))
    if chosen not in (None, name):
        base = _without(base, (*keys, "arguments"))
    return base, override


def _with_name(source: Source, keys: Keys) -> Source:
    """Return a tree with the mapping `{name: NAME}` where it has only NAME at `keys`."""
    name = _inner(source.value, keys)
    if not isinstance(name, str):
        return source
    locations = {**source.locations, (*keys, "name"): source.location(keys)}
    return Source(source.name, _replaced(source.value, keys, {"name": name}), locations)


def _without(base: Source, keys: Keys) -> Source:
    """Return `base` without the node at `keys`, if it has one."""
    parent = _inner(base.value, keys[:-1])
    if not isinstance(parent, dict) or keys[-1] not in parent:
        return base
    return base.pruned(without_nodes(base.value, {keys}))


def _inner(value: Any, keys: Keys) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _replaced(value: Any, keys: Keys, inner: Any) -> Any:
    if not keys:
        return inner
    return {**value, keys[0]: _replaced(value[keys[0]], keys[1:], inner)}


def validate_experiment(source: Source, for_training: bool = True) -> Experiment:
    """Validate an experiment. `model` is FENet's configuration, or a custom network:
    `package.module:Class`, or a mapping of `network` and `arguments`.

    for_training: import and check the classes of the optimizer, the schedule, the loss, the
    transforms and the metrics, too, and not only the network's.

    Raises StudyError."""
    model = source.value.get("model", {})
    if isinstance(model, str) and ":" in model:
        source = source.merged(single_value("model.network", model, source.location(("model",))))
        model = source.value["model"]
    source = _without_removed_patterns(source)
    tree = source.subtree(("model",)) if "model" in source.value else Source(source.name, {})
    problems: list[Problem] = []
    config: ModelConfig = FENetConfig()
    experiment = Experiment()
    # Validated by kind, so that an error in one kind of network is not reported for the other.
    try:
        if isinstance(model, dict) and "network" in model:
            config = validate(tree, NetworkConfig, prefix="model")
            check_network_config(config, tree)
        else:
            config = validate(tree, FENetConfig, prefix="model")
    except StudyError as error:
        problems += error.problems
    try:
        experiment = validate(source.without("model"), Experiment)
        if for_training:
            check_training_classes(experiment, source)
    except StudyError as error:
        problems += error.problems
    if problems:
        raise StudyError(problems)
    return replace(experiment, model=config)


def _without_removed_patterns(source: Source) -> Source:
    """Return an experiment without the patterns that a later layer has set to null."""
    patterns = _inner(source.value, _PATTERNS)
    for pattern, factor in patterns.items() if isinstance(patterns, dict) else ():
        if factor is None:
            source = _without(source, (*_PATTERNS, pattern))
    return source


def without_unknown_keys(source: Source, problems: list[Problem]) -> Source:
    """Return a partial experiment without its unknown keys, which are added to `problems`."""
    if not isinstance(source.value, dict):
        return source
    return source.pruned(_known_part(source.value, (), source, problems))


def unknown_key(
    dotted: str, location: SourceLocation, others: Sequence[str] = ()
) -> Problem | None:
    """Return a problem if an experiment has no such dotted key. others: what else may be meant."""
    if dotted in known_keys() or dotted.startswith(tuple(f"{key}." for key in OPEN_MAPPINGS)):
        return None
    if dotted in _OF_THE_STUDY:
        return Problem(location, f"{_OF_THE_STUDY[dotted]} of the study, not in an experiment")
    return Problem(location, f"unknown key `{dotted}`; {_suggestion(dotted, others)}")


@cache
def known_keys() -> dict[str, bool]:
    """Return every dotted key of an experiment except those that the study sets, and whether it is
    a group of keys, which can have no single value."""
    keys = _keys_below(Experiment, "")
    return {name: inner for name, inner in keys if name not in _OF_THE_STUDY}


def dotted_leaves(value: Any) -> list[str]:
    """Return the dotted keys of all values in nested mappings; none if `value` is no mapping."""
    return [key for key, _ in flattened(value)] if isinstance(value, dict) else []


def _known_part(
    value: dict[str, Any], parents: Keys, source: Source, problems: list[Problem]
) -> dict[str, Any]:
    kept = {}
    for key, inner in value.items():
        keys = (*parents, key)
        dotted = ".".join(map(str, keys))
        problem = unknown_key(dotted, source.location(keys))
        if problem is None and "." in key:
            first, _, rest = key.partition(".")
            message = (
                f"`{key}` must be nested here: `{first}: {{{rest}: ...}}`; dotted keys work in "
                f"`grid`, conditions and {option('set')} only"
            )
            problem = Problem(source.location(keys), message)
        if problem is not None:
            problems.append(problem)
        elif isinstance(inner, dict) and _has_keys(dotted) and not _is_user_network(inner):
            kept[key] = _known_part(inner, keys, source, problems)
        else:
            kept[key] = inner
    return kept


def _has_keys(dotted: str) -> bool:
    return any(key.startswith(f"{dotted}.") for key in known_keys())


def _is_user_network(value: dict[str, Any]) -> bool:
    """Whether a mapping is a `model` that is validated as a `NetworkConfig`."""
    return "network" in value


def _suggestion(dotted: str, others: Sequence[str]) -> str:
    """Return the full dotted key that was probably meant, and the known keys of the same group,
    with `others`."""
    group, _, last = dotted.rpartition(".")
    parts = {key: key.rpartition(".") for key in known_keys()}
    siblings = {name: key for key, (parent, _, name) in parts.items() if parent == group}
    siblings |= {name: name for name in others}
    elsewhere = [key for key, (_, _, name) in parts.items() if name == last]
    close = closest(last, list(siblings))
    meant = [siblings[close]] if close else elsewhere
    start = f"did you mean {' or '.join(f'`{key}`' for key in meant)}? " if meant else ""
    names = siblings or [key for key in known_keys() if "." not in key]
    return f"{start}known{' here' if siblings else ''}: {', '.join(names)}"


def _keys_below(config: Any, prefix: str) -> Iterator[tuple[str, bool]]:
    hints = get_type_hints(config)
    for entry in fields(config):
        name = f"{prefix}{entry.name}"
        inner = _dataclasses_in(hints[entry.name])
        yield name, bool(inner) and not _accepts_text(hints[entry.name])
        for each in inner:
            yield from _keys_below(each, f"{name}.")


def _dataclasses_in(kind: Any) -> list[Any]:
    return [member for member in union_members(kind) if is_dataclass(member)]


def _accepts_text(kind: Any) -> bool:
    return str in union_members(kind)
