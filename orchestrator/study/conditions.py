"""Which cells a condition holds for: dotted keys, each with a value or a list of values."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.study.config import StudyConfig
from orchestrator.study.overlay import known_keys, unknown_key
from orchestrator.study.validation import closest, shown, suggestion
from orchestrator.study.yaml_source import Keys, Problem, Source
from pipelines.training.experiment import Experiment

VARIANT = "variant"
_ABSENT = object()


def conditions(config: StudyConfig, source: Source) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
    """Every condition of a study, with the keys it stands at in the file."""
    for index, part in enumerate(config.when):
        yield ("when", index, "if"), part.condition
    for name, variant in config.variants.items():
        for kind, entries in variant.stated.items():
            for index, entry in enumerate(entries):
                yield stated_keys(source, name, kind, index), entry.when


def stated_keys(source: Source, variant: str, kind: str, index: int) -> Keys:
    """Where the condition of a variant's reference or entered score stands, one or of a list."""
    keys: Keys = ("variants", variant, kind)
    listed = isinstance(source.value["variants"][variant].get(kind), list)
    return (*keys, index, "when") if listed else (*keys, "when")


def resolved_values(variant: str, experiment: Mapping[str, Any]) -> dict[str, Any]:
    """What conditions are matched against: a partial experiment's values over the defaults, and the
    variant's name. A network of the user's own has none of FENet's keys."""
    defaults = asdict(Experiment())
    model = experiment.get("model")
    if isinstance(model, str) or (isinstance(model, dict) and "network" in model):
        defaults["model"] = {}
    return {**_filled(defaults, experiment), VARIANT: variant}


def holds(condition: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Whether every key of `condition` has the value it states, or one of those it lists."""
    return all(_matches(found(key, values), wanted) for key, wanted in condition.items())


def found(dotted: str, values: Mapping[str, Any]) -> Any:
    """The value at a dotted key; something equal to nothing where there is none."""
    value: Any = values
    for key in dotted.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return _ABSENT
        value = value[key]
    return value


def check_condition(
    condition: Mapping[str, Any], source: Source, keys: Keys, variants: Sequence[str]
) -> list[Problem]:
    """What is wrong with the keys of a condition that stands at `keys`."""
    problems = []
    name = ".".join(map(str, keys))
    for key, wanted in condition.items():
        place = source.place((*keys, key))
        if key == VARIANT:
            for received in wanted if isinstance(wanted, list) else [wanted]:
                if received not in variants:
                    message = f"`{name}.{key}` is {shown(received)}, which is no variant; "
                    advice = suggestion(str(received), list(variants))
                    problems.append(Problem(place, message + advice))
            continue
        problem = unknown_key(key, place)
        if problem is not None and closest(key, [VARIANT]):
            problems.append(Problem(place, f"unknown key `{key}`; did you mean `{VARIANT}`?"))
        elif problem is not None:
            problems.append(problem)
        elif isinstance(wanted, dict) or known_keys().get(key):
            inner = next(iter(wanted), "key") if isinstance(wanted, dict) else "key"
            message = (
                f"`{name}`: write single values with dotted keys, such as `{key}.{inner}: ...`"
            )
            problems.append(Problem(place, message))
    return problems


def never(condition: Mapping[str, Any], cells: list[dict[str, Any]]) -> str:
    """Why a condition holds for none of the cells' resolved values, as a sentence."""
    for key, wanted in condition.items():
        there = [found(key, values) for values in cells]
        if not any(_matches(value, wanted) for value in there):
            told = sorted({shown(value) for value in there if value is not _ABSENT})
            met = " or ".join(told[:6]) if told else "in no cell"
            return f"holds for no cell: `{key}` is {shown(wanted)} here, but {met} in the study"
    return "holds for no cell: no cell meets all of it at once"


def _matches(value: Any, wanted: Any) -> bool:
    if isinstance(value, tuple):
        value = list(value)
    return _equal(value, wanted) or (
        isinstance(wanted, list) and any(_equal(value, one) for one in wanted)
    )


def _equal(value: Any, wanted: Any) -> bool:
    # True is 1 to Python, but not to a person.
    return isinstance(value, bool) == isinstance(wanted, bool) and bool(value == wanted)


def _filled(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(defaults)
    for key, value in given.items():
        below = result.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = _filled(below, value) if both else value  # type: ignore[arg-type]
    return result
