"""The study: what a YAML file asks for, and the trials it expands into.

A study is a base experiment, named variants laid over it (the rows of a table), a grid of axes laid
over those (its columns), and seeds. Resources stand apart, because they do not decide a result.
"""

import fnmatch
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from models import FENetConfig
from orchestrator.extensions import check_network_config, import_modules
from orchestrator.resources import Resources
from orchestrator.source import (
    Place,
    Problem,
    Source,
    StudyError,
    parse_yaml,
    read_yaml,
    single_value,
)
from orchestrator.validation import suggestion, validate
from pipelines.experiment import Experiment
from pipelines.network import ModelConfig, NetworkConfig

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+()=-]*")


@dataclass(frozen=True)
class Reference:
    """A published value to stand beside the measured one. miou is in percent, as in papers."""

    __pydantic_config__ = {"extra": "forbid"}

    miou: float
    source: str = ""


@dataclass(frozen=True)
class Variant:
    """One row: what it sets over the base, how it is called, what was published for it."""

    __pydantic_config__ = {"extra": "forbid"}

    set: dict[str, Any] = field(default_factory=dict)
    label: str | None = None
    reference: Reference | None = None


@dataclass(frozen=True)
class Study:
    """A validated study file. `base` and each variant's `set` are partial experiments; `grid` maps
    dotted keys, such as `model.backbone`, to the values of a column axis. `imports` names modules
    of the user's own that register backbones or kinds of FEM."""

    __pydantic_config__ = {"extra": "forbid"}

    study: str
    variants: dict[str, Variant]
    description: str = ""
    base: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    compare_to: str | None = None
    resources: Resources = field(default_factory=Resources)
    imports: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """One cell of the table with one seed: what to train, under a name unique in the study."""

    name: str
    variant: str
    label: str
    axes: dict[str, Any]
    experiment: Experiment
    reference: Reference | None


@dataclass(frozen=True)
class Plan:
    """A study with its trials, in the order of the file, and the text it was read from."""

    study: Study
    trials: tuple[Trial, ...]
    text: str


def load_study(
    path: Path, overrides: Sequence[tuple[str, str]] = (), only: Sequence[str] = ()
) -> Plan:
    """Read, validate and expand a study file.

    overrides: `(dotted key, YAML text)` pairs of the command line, laid over the file: a key of the
        study itself (`resources.workers`, `seeds`) or of the experiment (`training.epochs`), where
        they win over variants and grid too.
    only: patterns; a trial is kept if any of them matches its whole name (`*` for anything).

    Raises StudyError with every problem found.
    """
    source = read_yaml(path)
    if not isinstance(source.value, dict):
        raise StudyError([Problem(source.place(()), "a study must be a mapping of keys")])
    experiment_overrides: list[Source] = []
    for key, text in overrides:
        one = _override(key, text)
        if key.split(".")[0] in _field_names(Study):
            source = source.merged(one)
        else:
            experiment_overrides.append(one)
    study = validate(source, Study)
    problems = _check_study(study, source)
    if problems:
        raise StudyError(problems)
    import_modules(study.imports, source)
    trials = _expand(study, source, experiment_overrides)
    return Plan(study, _only(trials, only), path.read_text(encoding="utf-8"))


def _override(key: str, text: str) -> Source:
    place = Place(f"--set {key}={text}")
    if not all(key.split(".")):
        raise StudyError([Problem(place, "write --set key.subkey=value")])
    return single_value(key, parse_yaml(text, str(place)).value, place)


def _check_study(study: Study, source: Source) -> list[Problem]:
    """What the types cannot say."""
    problems = []
    if not _NAME.fullmatch(study.study):
        message = f"`study` is {study.study!r}; use letters, digits and . _ + ( ) = -"
        problems.append(Problem(source.place(("study",)), message))
    if not study.variants:
        problems.append(Problem(source.place(("variants",)), "`variants` names no variant"))
    for name in study.variants:
        if not _NAME.fullmatch(name):
            message = f"variant name {name!r}; use letters, digits and . _ + ( ) = -"
            problems.append(Problem(source.place(("variants", name)), message))
    if study.compare_to is not None and study.compare_to not in study.variants:
        message = (
            f"`compare_to` is {study.compare_to!r}, which is no variant; "
            f"{suggestion(study.compare_to, list(study.variants))}"
        )
        problems.append(Problem(source.place(("compare_to",)), message))
    for axis, values in study.grid.items():
        if not values:
            problems.append(Problem(source.place(("grid", axis)), f"axis `{axis}` has no values"))
        if axis == "seed":
            message = "list seeds under `seeds`, not as an axis of the grid"
            problems.append(Problem(source.place(("grid", axis)), message))
    if not study.seeds:
        problems.append(Problem(source.place(("seeds",)), "`seeds` must name at least one seed"))
    if len(set(study.seeds)) < len(study.seeds):
        problems.append(Problem(source.place(("seeds",)), "`seeds` names a seed twice"))
    return problems


def _expand(study: Study, source: Source, overrides: list[Source]) -> tuple[Trial, ...]:
    """Variants x grid x seeds, each laid over the base and validated as an experiment."""
    empty = Source(source.name, {})
    base = source.subtree(("base",)) if "base" in source.value else empty
    trials: list[Trial] = []
    problems: list[Problem] = []
    for name, variant in study.variants.items():
        row = base
        if variant.set:
            row = _laid_over(row, source.subtree(("variants", name, "set")))
        for values in itertools.product(*study.grid.values()):
            axes = dict(zip(study.grid, values, strict=True))
            cell = row
            for axis, value in axes.items():
                place = source.place(("grid", axis, study.grid[axis].index(value)))
                cell = _laid_over(cell, single_value(axis, value, place))
            for one in overrides:
                cell = _laid_over(cell, one)
            for seed in study.seeds:
                full = cell.merged(
                    single_value("seed", seed, source.place(("seeds", study.seeds.index(seed))))
                )
                try:
                    experiment = read_experiment(full)
                except StudyError as error:
                    problems += error.problems
                    continue
                trials.append(
                    Trial(
                        name=_trial_name(name, axes, seed, len(study.seeds) > 1),
                        variant=name,
                        label=variant.label or name,
                        axes=axes,
                        experiment=experiment,
                        reference=variant.reference,
                    )
                )
    if problems:
        raise StudyError(problems)
    return tuple(trials)


def _laid_over(below: Source, above: Source) -> Source:
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


def _trial_name(variant: str, axes: dict[str, Any], seed: int, several_seeds: bool) -> str:
    parts = [variant, *(str(value) for value in axes.values())]
    if several_seeds or seed != 0:
        parts.append(f"seed {seed}")
    return ", ".join(parts)


def _only(trials: tuple[Trial, ...], patterns: Sequence[str]) -> tuple[Trial, ...]:
    if not patterns:
        return trials
    kept = tuple(
        trial
        for trial in trials
        if any(fnmatch.fnmatchcase(trial.name, pattern) for pattern in patterns)
    )
    if not kept:
        names = ", ".join(trial.name for trial in trials)
        message = f"matches no trial; there are: {names}"
        raise StudyError([Problem(Place(f"--only {' '.join(patterns)}"), message)])
    return kept


def _field_names(config: type[Any]) -> list[str]:
    return [entry.name for entry in fields(config)]
