"""Checks across the parts of a study that their types cannot express."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orchestrator.study.conditions import check_condition, conditions
from orchestrator.study.config import StudyConfig
from orchestrator.study.evaluation_options import LATENCY
from orchestrator.study.overlay import dotted_leaves, known_keys, unknown_key
from orchestrator.study.repetition import MAX_FOLDS
from orchestrator.study.study import Trial
from orchestrator.study.validation import accepts, as_json
from orchestrator.study.yaml_source import Keys, Problem, Source
from pipelines.data.split_names import splits_overlap
from pipelines.training.config import TrainingConfig
from pipelines.training.experiment import SEEDS, Experiment
from pipelines.wording import suggestion

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+()=-]*")
# Longer names make file names, or MLflow's names of metrics, that are too long.
_LONGEST_NAME = 100
_LONGEST_PROTOCOL = 50
_PROTOCOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_study(config: StudyConfig, source: Source) -> list[Problem]:
    """Return every problem in how the parts of a study refer to each other."""
    return [
        *_names(config, source),
        *_variant_references(config, source),
        *_grid(config, source),
        *_protocols(config, source),
        *_conditions(config, source),
        *_kind(config, source),
    ]


def _names(config: StudyConfig, source: Source) -> Iterator[Problem]:
    if not _NAME.fullmatch(config.study):
        message = f"`study` is {config.study!r}; use letters, digits, spaces and . _ + ( ) = -"
        yield Problem(source.location(("study",)), message)
    yield from _too_long("`study`", config.study, _LONGEST_NAME, source, ("study",))
    if not config.variants:
        yield Problem(source.location(("variants",)), "`variants` must have at least one entry")
    for name in config.variants:
        if not _NAME.fullmatch(name):
            message = f"variant name {name!r}; use letters, digits, spaces and . _ + ( ) = -"
            yield Problem(source.location(("variants", name)), message)
        yield from _too_long("a variant's name", name, _LONGEST_NAME, source, ("variants", name))
    labels: dict[str, str] = {}
    files: dict[str, str] = {}
    for name, variant in config.variants.items():
        # Archives for test servers are named after the trial.
        file = re.sub(r"[^a-z0-9._+]+", "-", name.lower())
        if file in files:
            message = f"variant {name!r} has the same file name as {files[file]!r}; rename one"
            yield Problem(source.location(("variants", name)), message)
        files.setdefault(file, name)
        label = variant.label or name
        if label in labels:
            keys = ("variants", name, "label") if variant.label else ("variants", name)
            message = f"variant {name!r} has the same label as {labels[label]!r}: {label!r}"
            yield Problem(source.location(keys), message + "; give each a unique label")
        labels.setdefault(label, name)
    if not config.seeds:
        yield Problem(source.location(("seeds",)), "`seeds` must have at least one entry")
    if len(set(config.seeds)) < len(config.seeds):
        yield Problem(source.location(("seeds",)), "`seeds` has a duplicate entry")
    for index, seed in enumerate(config.seeds):
        if seed not in SEEDS:
            message = f"a seed must be from 0 to 2^63 - 1, received {seed}"
            yield Problem(source.location(("seeds", index)), message)
    if isinstance(config.folds, int) and not 2 <= config.folds <= MAX_FOLDS:
        message = f"`folds` must be at least 2 and at most {MAX_FOLDS}, received {config.folds}"
        yield Problem(source.location(("folds",)), message)


def _too_long(what: str, name: str, longest: int, source: Source, keys: Keys) -> Iterator[Problem]:
    if len(name) > longest:
        message = f"{what} may have {longest} characters, received {len(name)}: {as_json(name)}"
        yield Problem(source.location(keys), message)


def _variant_references(config: StudyConfig, source: Source) -> Iterator[Problem]:
    references: list[tuple[str, Keys, str]] = []
    if config.compare_to is not None:
        references.append(("compare_to", ("compare_to",), config.compare_to))
    for row, variant in config.variants.items():
        keys: Keys = ("variants", row, "compare_to")
        if variant.compare_to == row:
            message = f"`variants.{row}.compare_to` is the variant itself; name another variant"
            yield Problem(source.location(keys), message)
        elif variant.compare_to is not None:
            references.append((f"variants.{row}.compare_to", keys, variant.compare_to))
    for index, name in enumerate(config.first or ()):
        references.append(("first", ("first", index), name))
    for key, location, name in references:
        if name not in config.variants:
            advice = suggestion(name, list(config.variants))
            message = f"`{key}` is {name!r}, which is not a variant; {advice}"
            yield Problem(source.location(location), message)
    yield from _cyclic_comparisons(config, source)


def _cyclic_comparisons(config: StudyConfig, source: Source) -> Iterator[Problem]:
    """Yield each cycle of rows that are compared to each other, which would count a comparison
    more than once."""
    reported: set[str] = set()
    for start in config.variants:
        chain = [start]
        while (other := config.compared_to(chain[-1])) in config.variants and other not in chain:
            chain.append(other)
        if other is None or other not in chain:
            continue
        cycle = chain[chain.index(other) :]
        if len(cycle) < 2 or reported & set(cycle):
            continue
        reported |= set(cycle)
        own = next(name for name in cycle if config.variants[name].compare_to)
        names = " -> ".join([own, *_rotated(cycle, own)[1:], own])
        message = (
            f"`variants.{own}.compare_to` closes a cycle: {names}; remove it, or compare to a row "
            "outside the cycle"
        )
        yield Problem(source.location(("variants", own, "compare_to")), message)


def _rotated(names: Sequence[str], first: str) -> list[str]:
    """Return the names of a cycle, starting with `first`."""
    start = names.index(first)
    return [*names[start:], *names[:start]]


def _grid(config: StudyConfig, source: Source) -> Iterator[Problem]:
    for axis, values in config.grid.items():
        location = source.location(("grid", axis))
        if axis == "seed" or axis.startswith("data.fold"):
            key = "seeds" if axis == "seed" else "folds"
            yield Problem(location, f"list {key} under `{key}`, not as an axis of the grid")
            continue
        problem = unknown_key(axis, location)
        if problem is not None:
            yield problem
        if not values:
            yield Problem(location, f"axis `{axis}` has no values")
        for index, value in enumerate(values):
            if any(str(value) == str(earlier) for earlier in values[:index]):
                message = f"axis `{axis}` has {as_json(value)} twice"
                yield Problem(source.location(("grid", axis, index)), message)
    overrides: list[Keys] = [("variants", name, "set") for name in config.variants]
    overrides += [("when", index, "set") for index in range(len(config.when))]
    for keys in overrides:
        if keys not in source.locations:
            continue
        for leaf in dotted_leaves(source.subtree(keys).value):
            if leaf in config.grid:
                message = (
                    f"`{'.'.join(map(str, keys))}` sets `{leaf}`, which is an axis of the grid, so "
                    "the table would show a value that was not trained; set it in `base` or remove "
                    "the axis"
                )
                yield Problem(source.location((*keys, *leaf.split("."))), message)


def _protocols(config: StudyConfig, source: Source) -> Iterator[Problem]:
    for name in config.protocols:
        if not _PROTOCOL.fullmatch(name):
            message = f"protocol name {name!r}; use letters, digits and . _ -"
            yield Problem(source.location(("protocols", name)), message)
        if name == LATENCY:
            message = f"a protocol cannot be named {name!r}, because latency is recorded under it"
            yield Problem(source.location(("protocols", name)), message)
        keys = ("protocols", name)
        yield from _too_long("a protocol's name", name, _LONGEST_PROTOCOL, source, keys)
    submission = config.submission.protocol if config.submission is not None else None
    for key, chosen in (("report", config.report.protocol), ("submission", submission)):
        if chosen is not None and chosen not in config.protocols:
            known = list(config.protocols)
            advice = suggestion(chosen, known) if known else "the study has no `protocols`"
            message = f"`{key}.protocol` is {chosen!r}, which is not a protocol; {advice}"
            yield Problem(source.location((key, "protocol")), message)


def _conditions(config: StudyConfig, source: Source) -> Iterator[Problem]:
    for keys, condition in conditions(config, source):
        yield from check_condition(condition, source, keys, list(config.variants))
    setting = config.report.published_setting
    keys = ("report", "published_setting")
    yield from check_condition(setting, source, keys, list(config.variants))
    yield from _setting_values(setting, source, keys)
    axes = list(config.grid)
    for index, row in enumerate(config.published):
        for key in row.when:
            if key not in axes:
                advice = suggestion(key, axes) if axes else "the study has no grid"
                message = f"`published.{index}.when` has {key!r}, which is not an axis of the grid"
                location = source.location(("published", index, "when", key))
                yield Problem(location, f"{message}; {advice}")


def _setting_values(setting: Mapping[str, Any], source: Source, keys: Keys) -> Iterator[Problem]:
    """Yield the values of `report.published_setting` that no experiment can have. (Those of other
    conditions are matched with the study's cells.)"""
    for key, wanted in setting.items():
        if known_keys().get(key, True):  # a group of keys, or unknown: already reported
            continue
        if accepts(Experiment, tuple(key.split(".")), wanted):
            continue
        field = tuple(key.split("."))
        values = wanted if isinstance(wanted, list) else [wanted]
        wrong = [value for value in values if not accepts(Experiment, field, value)]
        if wrong or not values:
            received = as_json(wrong[0] if wrong else wanted)
            message = (
                f"`{'.'.join(map(str, keys))}.{key}` is {received}; write a value that `{key}` can "
                "have in an experiment"
            )
            yield Problem(source.location((*keys, key)), message)


def _kind(config: StudyConfig, source: Source) -> Iterator[Problem]:
    if config.early_stopping is not None and config.kind != "search":
        yield Problem(
            source.location(("early_stopping",)),
            "`early_stopping` needs `kind: search`, because a table must not compare trials that "
            "were stopped by their rank",
        )
    if config.early_stopping is not None and config.folds is not None:
        yield Problem(
            source.location(("early_stopping",)),
            "`early_stopping` cannot be used with `folds`, because it would compare scores on "
            "different images; remove one of them",
        )
    if config.kind != "profile":
        if config.profile is not None:
            yield Problem(source.location(("profile",)), "`profile` needs `kind: profile`")
        for name, variant in config.variants.items():
            if variant.part is not None:
                location = source.location(("variants", name, "part"))
                yield Problem(location, f"`variants.{name}.part` needs `kind: profile`")
    else:
        for key in ("protocols", "submission", "folds", "latency"):
            if getattr(config, key):
                message = f"`{key}` needs trained models, but `kind: profile` trains nothing"
                yield Problem(source.location((key,)), message)


def check_splits(config: StudyConfig, trials: Sequence[Trial], source: Source) -> list[Problem]:
    """Return a problem if the report's protocol cannot score some trial: it has no validation
    split."""
    name = config.report.protocol
    if name in config.protocols and config.protocols[name].split is not None:
        return []
    unscored = [trial for trial in trials if trial.experiment.data.validation_split is None]
    if name is None or not unscored:
        return []
    message = (
        f"`report.protocol` is {name!r}, but {unscored[0].name} cannot be scored: its "
        "`data.validation_split` is null; set that, or `split` of the protocol"
    )
    return [Problem(source.location(("report", "protocol")), message)]


def check_workers(config: StudyConfig, trials: Sequence[Trial], source: Source) -> list[Problem]:
    """Return a problem if a trial has more workers than images in a batch."""
    workers = config.resources.most_workers
    for trial in trials:
        training = trial.experiment.training
        images = training.batch // training.accumulation
        if images < workers:
            accumulation = training.accumulation
            parts = f" in {accumulation} micro-batches" if accumulation > 1 else ""
            message = (
                f"`resources.workers` is {workers}, but {trial.name} has a batch of "
                f"{training.batch}{parts}; use at most {images} workers"
            )
            return [Problem(source.location(("resources", "workers")), message)]
    return []


def overlapping_splits(trials: Sequence[Trial], source: Source) -> list[Problem]:
    """Return a warning for each pair of splits that validates on training images, which is
    allowed."""
    pairs = {
        (trial.experiment.data.trained_on, trial.experiment.data.validation_split)
        for trial in trials
    }
    return [
        Problem(
            source.location(("base", "data", "validation_split")),
            f"split {validation} is used for validation and also for training ({train}), so mIoU "
            "does not measure generalization",
        )
        for train, validation in sorted(pairs, key=str)
        if validation is not None and splits_overlap(train, validation)
    ]


def ignored_powers(trials: Sequence[Trial], source: Source) -> list[Problem]:
    """Return a warning for each schedule for which `training.power` is set although it has none."""
    schedules = {
        (trial.experiment.training.schedule_config.name, trial.experiment.training.power)
        for trial in trials
        if trial.experiment.training.power != TrainingConfig.power
    }
    return [
        Problem(
            source.location(("base", "training", "power")),
            f"power is {power:g}, but only the schedule poly has it, so it has no effect on trials "
            f"with {name}; remove it there, or set schedule.arguments",
        )
        for name, power in sorted(schedules)
        if name != "poly"
    ]
