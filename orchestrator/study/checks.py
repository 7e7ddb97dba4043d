"""What the types of a study cannot say: whether its parts fit each other."""

import re
from collections.abc import Iterator, Sequence

from orchestrator.study.conditions import check_condition, conditions
from orchestrator.study.config import StudyConfig
from orchestrator.study.overlay import dotted_leaves, unknown_key
from orchestrator.study.study import Trial
from orchestrator.study.validation import shown, suggestion
from orchestrator.study.yaml_source import Keys, Problem, Source
from pipelines.data.dataset import split_parts

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+()=-]*")
_SEEDS = 2**63
_PROTOCOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_study(config: StudyConfig, source: Source) -> list[Problem]:
    """Everything that is wrong with how a study's parts refer to each other."""
    return [
        *_names(config, source),
        *_referred_variants(config, source),
        *_grid(config, source),
        *_protocols(config, source),
        *_conditions(config, source),
        *_kind(config, source),
    ]


def _names(config: StudyConfig, source: Source) -> Iterator[Problem]:
    if not _NAME.fullmatch(config.study):
        message = f"`study` is {config.study!r}; use letters, digits and . _ + ( ) = -"
        yield Problem(source.place(("study",)), message)
    if not config.variants:
        yield Problem(source.place(("variants",)), "`variants` names no variant")
    for name in config.variants:
        if not _NAME.fullmatch(name):
            message = f"variant name {name!r}; use letters, digits and . _ + ( ) = -"
            yield Problem(source.place(("variants", name)), message)
    labels: dict[str, str] = {}
    files: dict[str, str] = {}
    for name, variant in config.variants.items():
        # What is packed for a test server is a file named after its trial.
        file = re.sub(r"[^a-z0-9._+]+", "-", name.lower())
        if file in files:
            message = f"variant name {name!r} makes the same file name as {files[file]!r}"
            yield Problem(source.place(("variants", name)), message + "; give it another")
        files.setdefault(file, name)
        label = variant.label or name
        if label in labels:
            keys = ("variants", name, "label") if variant.label else ("variants", name)
            message = f"`variants.{name}` is called {label!r} in the table, as `{labels[label]}` is"
            yield Problem(source.place(keys), message + "; give each row a label of its own")
        labels.setdefault(label, name)
    if not config.seeds:
        yield Problem(source.place(("seeds",)), "`seeds` must name at least one seed")
    if len(set(config.seeds)) < len(config.seeds):
        yield Problem(source.place(("seeds",)), "`seeds` names a seed twice")
    for index, seed in enumerate(config.seeds):
        if not 0 <= seed < _SEEDS:
            place = source.place(("seeds", index))
            yield Problem(place, f"a seed must not be negative, nor above 2^63, received {seed}")


def _referred_variants(config: StudyConfig, source: Source) -> Iterator[Problem]:
    named: list[tuple[str, Keys, str]] = []
    if config.compare_to is not None:
        named.append(("compare_to", ("compare_to",), config.compare_to))
    for index, name in enumerate(config.first or ()):
        named.append(("first", ("first", index), name))
    for key, keys, name in named:
        if name not in config.variants:
            message = f"`{key}` is {name!r}, which is no variant; "
            yield Problem(source.place(keys), message + suggestion(name, list(config.variants)))


def _grid(config: StudyConfig, source: Source) -> Iterator[Problem]:
    for axis, values in config.grid.items():
        place = source.place(("grid", axis))
        if axis == "seed":
            yield Problem(place, "list seeds under `seeds`, not as an axis of the grid")
            continue
        problem = unknown_key(axis, place)
        if problem is not None:
            yield problem
        if not values:
            yield Problem(place, f"axis `{axis}` has no values")
        for index, value in enumerate(values):
            if any(str(value) == str(earlier) for earlier in values[:index]):
                message = f"axis `{axis}` names {shown(value)} twice"
                yield Problem(source.place(("grid", axis, index)), message)
    sets: list[Keys] = [("variants", name, "set") for name in config.variants]
    sets += [("when", index, "set") for index in range(len(config.when))]
    for keys in sets:
        if keys not in source.places:
            continue
        for leaf in dotted_leaves(source.subtree(keys).value):
            if leaf in config.grid:
                message = (
                    f"`{'.'.join(map(str, keys))}` sets `{leaf}`, which is an axis of the grid: "
                    "the column would not say what was trained; set it in `base`, or take the axis "
                    "away"
                )
                yield Problem(source.place((*keys, *leaf.split("."))), message)


def _protocols(config: StudyConfig, source: Source) -> Iterator[Problem]:
    for name in config.protocols:
        if not _PROTOCOL.fullmatch(name):
            place = source.place(("protocols", name))
            yield Problem(place, f"protocol name {name!r}; use letters, digits and . _ -")
    submission = config.submission.protocol if config.submission is not None else None
    for key, chosen in (("report", config.report.protocol), ("submission", submission)):
        if chosen is not None and chosen not in config.protocols:
            there = list(config.protocols)
            advice = suggestion(chosen, there) if there else "the study has no `protocols`"
            message = f"`{key}.protocol` is {chosen!r}, which is no protocol; {advice}"
            yield Problem(source.place((key, "protocol")), message)


def _conditions(config: StudyConfig, source: Source) -> Iterator[Problem]:
    for keys, condition in conditions(config, source):
        yield from check_condition(condition, source, keys, list(config.variants))
    for index, row in enumerate(config.published):
        for key in row.when:
            if key not in config.grid:
                place = source.place(("published", index, "when", key))
                axes = (
                    suggestion(key, list(config.grid)) if config.grid else "the study has no grid"
                )
                message = f"`published.{index}.when` names {key!r}, which is no axis of the grid; "
                yield Problem(place, message + axes)


def _kind(config: StudyConfig, source: Source) -> Iterator[Problem]:
    if config.early_stopping is not None and config.kind != "search":
        yield Problem(
            source.place(("early_stopping",)),
            "`early_stopping` needs `kind: search`: a table whose rows were stopped by their rank "
            "would compare unfinished trainings",
        )
    if config.kind != "profile":
        if config.profile is not None:
            yield Problem(source.place(("profile",)), "`profile` needs `kind: profile`")
        for name, variant in config.variants.items():
            if variant.part is not None:
                place = source.place(("variants", name, "part"))
                yield Problem(place, f"`variants.{name}.part` needs `kind: profile`")
    else:
        for key in ("protocols", "submission"):
            if getattr(config, key):
                message = f"`{key}` needs something trained, and `kind: profile` trains nothing"
                yield Problem(source.place((key,)), message)


def check_splits(config: StudyConfig, trials: Sequence[Trial], source: Source) -> list[Problem]:
    """A figure of the table that no trial could ever have."""
    name = config.report.protocol
    unscored = [trial for trial in trials if trial.experiment.data.validation_split is None]
    if name is None or not unscored:
        return []
    message = (
        f"`report.protocol` is {name!r}, but {unscored[0].name} is not scored under any protocol: "
        "its `data.validation_split` is null"
    )
    return [Problem(source.place(("report", "protocol")), message)]


def check_workers(config: StudyConfig, trials: Sequence[Trial], source: Source) -> list[Problem]:
    """More workers than a trial's batch has images for."""
    most = config.resources.most_workers
    for trial in trials:
        training = trial.experiment.training
        images = training.batch // training.accumulation
        if images < most:
            parts = f" in {training.accumulation} parts" if training.accumulation > 1 else ""
            message = (
                f"`resources.workers` asks for {most} workers, but {trial.name} has a batch of "
                f"{training.batch}{parts}, which {images} can share at most"
            )
            return [Problem(source.place(("resources", "workers")), message)]
    return []


def splits_that_overlap(trials: Sequence[Trial], source: Source) -> list[Problem]:
    """Trials that are validated on images they train on, which is allowed and worth a look."""
    pairs = {
        (trial.experiment.data.train_split, trial.experiment.data.validation_split)
        for trial in trials
    }
    return [
        Problem(
            source.place(("base", "data", "validation_split")),
            f"validated on {validation}, which is part of what is trained on ({train}): the mIoU "
            "says nothing about new images",
        )
        for train, validation in sorted(pairs, key=str)
        if validation is not None and set(split_parts(train)) & set(split_parts(validation))
    ]
