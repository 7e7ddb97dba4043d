"""Conditions: dotted keys, each with a value or a list of values, and the cells that meet them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

from orchestrator.study.config import StudyConfig
from orchestrator.study.overlay import known_keys, unknown_key
from orchestrator.study.validation import as_json
from orchestrator.study.yaml_source import Keys, Problem, Source
from pipelines.training.experiment import Experiment
from pipelines.wording import closest, suggestion

VARIANT = "variant"
_MISSING = object()  # equal to no value


def conditions(config: StudyConfig, source: Source) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
    """Yield every condition of a study, with its keys in the file."""
    for index, conditional in enumerate(config.when):
        yield ("when", index, "if"), conditional.condition
    for name, variant in config.variants.items():
        for kind, entries in variant.published.items():
            for index, entry in enumerate(entries):
                yield published_keys(source, name, kind, index), entry.when


def published_keys(source: Source, variant: str, kind: str, index: int) -> Keys:
    """Return the keys of the condition of a variant's `reference` or `entered` entry, which may be
    single or in a list."""
    keys: Keys = ("variants", variant, kind)
    listed = isinstance(source.value["variants"][variant].get(kind), list)
    return (*keys, index, "when") if listed else (*keys, "when")


def resolved_values(variant: str, experiment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that conditions are matched against: a partial experiment with defaults
    filled in, and the variant's name. A custom network has none of FENet's keys."""
    defaults = _defaults()
    model = experiment.get("model")
    if isinstance(model, str) or (isinstance(model, dict) and "network" in model):
        defaults = {**defaults, "model": {}}
    values = _filled(defaults, experiment)
    for key in ("optimizer", "schedule"):
        if isinstance(values["training"], dict) and isinstance(values["training"][key], str):
            values["training"] = {**values["training"], key: {"name": values["training"][key]}}
    return {**values, VARIANT: variant}


def holds(condition: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Whether each key of `condition` has the required value, or one of those listed."""
    return all(_matches(value_at(key, values), wanted) for key, wanted in condition.items())


def value_at(dotted: str, values: Mapping[str, Any], missing: Any = _MISSING) -> Any:
    """Return the value at a dotted key. missing: returned if there is no such key; a sentinel that
    equals no value by default."""
    value: Any = values
    for key in dotted.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return missing
        value = value[key]
    return value


def check_condition(
    condition: Mapping[str, Any], source: Source, keys: Keys, variants: Sequence[str]
) -> list[Problem]:
    """Return the problems of the condition at `keys`."""
    problems = []
    name = ".".join(map(str, keys))
    for key, wanted in condition.items():
        location = source.location((*keys, key))
        if key == VARIANT:
            for received in wanted if isinstance(wanted, list) else [wanted]:
                if received not in variants:
                    message = f"`{name}.{key}` is {as_json(received)}, which is not a variant; "
                    advice = suggestion(str(received), list(variants))
                    problems.append(Problem(location, message + advice))
            continue
        problem = unknown_key(key, location)
        if problem is not None and closest(key, [VARIANT]):
            problems.append(Problem(location, f"unknown key `{key}`; did you mean `{VARIANT}`?"))
        elif problem is not None:
            problems.append(problem)
        elif isinstance(wanted, dict) or known_keys().get(key):
            inner = next(iter(wanted), "key") if isinstance(wanted, dict) else "key"
            message = (
                f"`{name}`: `{key}` is a group of keys; use a dotted key with a single value, such "
                f"as `{key}.{inner}: ...`"
            )
            problems.append(Problem(location, message))
    return problems


def why_unmet(condition: Mapping[str, Any], cells: list[dict[str, Any]]) -> str:
    """Explain why none of the cells, given by their resolved values, meets a condition."""
    for key, wanted in condition.items():
        values = [value_at(key, cell) for cell in cells]
        if not any(_matches(value, wanted) for value in values):
            texts = sorted({as_json(value) for value in values if value is not _MISSING})
            actual = " or ".join(texts[:6]) if texts else "does not exist"
            return f"matches no cell: `{key}` is {as_json(wanted)} here, but {actual} in the study"
    return "matches no cell: no cell meets all keys of the condition at once"


@cache
def _defaults() -> dict[str, Any]:
    """Return the default of every setting. It is shared, so it must not be changed."""
    return asdict(Experiment())


def _matches(value: Any, wanted: Any) -> bool:
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, Mapping) and not isinstance(wanted, Mapping):
        value = value.get("name")  # the optimizer is `adamw`
    return _equal(value, wanted) or (
        isinstance(wanted, list) and any(_equal(value, one) for one in wanted)
    )


def _equal(value: Any, wanted: Any) -> bool:
    # In Python, True equals 1; in a study file, it must not.
    return isinstance(value, bool) == isinstance(wanted, bool) and bool(value == wanted)


def _filled(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `defaults` overridden by `given`; nested mappings are merged."""
    result = dict(defaults)
    for key, value in given.items():
        default = result.get(key)
        if isinstance(default, Mapping) and isinstance(value, Mapping):
            result[key] = _filled(default, value)
        else:
            result[key] = value
    return result
