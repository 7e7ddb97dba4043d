"""Reading a study file: what it extends, what the command line lays over it, and its trials."""

import fnmatch
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from orchestrator.study.checks import check_splits, check_study, check_workers, splits_that_overlap
from orchestrator.study.config import StudyConfig, field_names
from orchestrator.study.expand import expand
from orchestrator.study.study import Study, Trial
from orchestrator.study.user_code import import_modules
from orchestrator.study.validation import ANY, closest, examine, suggestion
from orchestrator.study.yaml_source import (
    Keys,
    Problem,
    Source,
    SourceLocation,
    StudyError,
    parse_yaml,
    read_yaml,
    single_value,
)

# Each file's own: two studies of one name would share a run in the ledger.
_NOT_INHERITED = ("study", "description", "extends")
# Mappings by names of the user's own, of which an inherited entry is dropped by null.
_NAMED = ("variants", "grid", "protocols")
# What is wrong is told with all else that is; where it has a name that others use, it keeps it.
_STAND_INS: dict[Keys, Any] = {("study",): "study", ("variants", ANY): {}, ("protocols", ANY): {}}
# What may be set without making another table: another name has a page of its own.
_BESIDE = ("study", "description", "resources", "limits", "first")
# Parts without which nothing true can be said of how the others fit each other.
_NEEDED = ("base", "variants", "grid", "kind", "protocols")


def load_study(
    path: Path, overrides: Sequence[tuple[str, str]] = (), only: Sequence[str] = ()
) -> Study:
    """Read, validate and expand a study file.

    overrides: `(dotted key, YAML text)` pairs of the command line, laid over the file: a key of the
        study itself (`resources.workers`, `seeds`) or of the experiment (`training.epochs`), where
        they win over variants, grid and `when` too. An axis of the grid gets that one value.
    only: patterns; a trial is kept if any of them matches its whole name (`*` for anything).

    Raises StudyError with every problem found.
    """
    problems: list[Problem] = []
    absent: list[Problem] = []
    source = _without_dropped(_read(path, (), problems, absent))
    if absent and "variants" not in source.value:
        # They may well lie in what is absent; what is here is looked at all the same.
        source = source.merged(Source(source.name, {"variants": {"absent": {}}}))
    experiment_overrides: list[Source] = []
    for key, text in overrides:
        try:
            one = _override(key, text)
        except StudyError as error:
            problems += error.problems
            continue
        grid = source.value.get("grid")
        axis = key.removeprefix("grid.")
        if key.startswith("grid."):
            source = _with_axis(source, axis, one, one.at(tuple(key.split("."))))
        elif key.split(".")[0] in field_names(StudyConfig):
            source = source.merged(one)
        elif isinstance(grid, dict) and axis in grid:
            source = _with_axis(source, axis, one, [one.at(tuple(axis.split(".")))])
        else:
            experiment_overrides.append(one)
    examined = examine(source, StudyConfig, stand_ins=_STAND_INS)
    config = examined.value
    problems += examined.problems
    lost = any(
        keys[:1] == keys or keys[0] == "grid" for keys in examined.removed if keys[0] in _NEEDED
    )
    if config is None or lost or absent:
        raise StudyError([*absent, *problems])
    source = examined.source
    problems += check_study(config, source)
    try:
        import_modules(config.imports, source)
    except StudyError as error:
        raise StudyError([*problems, *error.problems]) from None
    trials, wrong, idle = expand(config, source, experiment_overrides)
    problems += [
        *wrong,
        *check_splits(config, trials, source),
        *check_workers(config, trials, source),
    ]
    # `--set` may well have changed what a condition speaks of; without it, one is a mistake.
    if problems or (idle and not overrides):
        raise StudyError(problems or idle)
    return Study(
        config,
        _only(trials, only),
        path.read_text(encoding="utf-8"),
        _resolved(source, overrides),
        (*idle, *splits_that_overlap(trials, source)),
        trials,
        tuple(f"{key}={text}" for key, text in overrides if key.split(".")[0] not in _BESIDE),
    )


def override_of(text: str) -> tuple[str, str]:
    """A `KEY=VALUE` of the command line, as `load_study` takes it."""
    key, _, value = text.partition("=")
    return key.strip(), value


def _resolved(source: Source, overrides: Sequence[tuple[str, str]]) -> str:
    """The study as one document. What `--set` says of the experiment wins over variants, grid and
    `when`, for which a study file has no place: it stands above, as it was given."""
    told = [f"# --set {key}={text}".replace("\n", " ") + "\n" for key, text in overrides]
    document = {key: value for key, value in source.value.items() if key != "extends"}
    return "".join(told) + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _read(
    path: Path, chain: tuple[Path, ...], problems: list[Problem], absent: list[Problem]
) -> Source:
    """A study file laid over those it extends. chain: the files on the way here. What is wrong and
    can be passed over goes to `problems`, files that cannot be extended to `absent`."""
    source = read_yaml(path, problems)
    if not isinstance(source.value, dict):
        raise StudyError([Problem(source.place(()), "a study must be a mapping of keys")])
    chain = (*chain, path.resolve())
    below = Source(source.name, {})
    for keys, name in _extended(source):
        file = Path(os.path.normpath(path.parent / Path(name).expanduser()))
        place = source.place(keys)
        if file.resolve() in chain:
            circle = [*chain[chain.index(file.resolve()) :], file]
            told = " -> ".join(each.name for each in circle)
            absent.append(Problem(place, f"`extends` goes in a circle: {told}"))
        elif file.is_dir():
            absent.append(Problem(place, f"`extends` names {file}, which is a directory"))
        elif not file.is_file():
            absent.append(Problem(place, f"`extends` names {file}, {_nearest(file)}"))
        else:
            inherited = _read(file, chain, problems, absent)
            for key in _NOT_INHERITED:
                inherited = inherited.without(key)
            below = below.merged(inherited)
    if not absent:
        problems += _idle_nulls(below, source)
    # An entry that was dropped further down and is written anew starts from nothing.
    return _without_dropped(below).merged(source)


def _extended(source: Source) -> list[tuple[Keys, str]]:
    value = source.value.get("extends", [])
    if isinstance(value, str):
        return [(("extends",), value)]
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return [(("extends", index), entry) for index, entry in enumerate(value)]
    message = "`extends` must be a path, or a list of paths, relative to this file"
    raise StudyError([Problem(source.place(("extends",)), message)])


def _nearest(file: Path) -> str:
    if not file.parent.is_dir():
        return f"and there is no directory {file.parent}"
    there = sorted(each.stem for each in file.parent.glob("*.yaml"))
    close = closest(file.stem, there)
    hint = f"; did you mean {close}.yaml?" if close else ""
    return f"which is not there{hint}"


def _idle_nulls(below: Source, above: Source) -> Iterator[Problem]:
    """Nulls of `above` that have nothing in `below` to drop."""
    for section in _NAMED:
        entries = above.value.get(section)
        if not isinstance(entries, dict):
            continue
        inherited = below.value.get(section)
        there = list(inherited) if isinstance(inherited, dict) else []
        for name, value in entries.items():
            if value is None and name not in there:
                message = (
                    f"`{section}.{name}` is null, which drops what is inherited, and nothing of "
                    f"that name is"
                )
                if there:
                    message += f"; {suggestion(name, there)}"
                if section == "variants":
                    message += "; write `{}` for a variant that sets nothing"
                yield Problem(above.place((section, name)), message)


def _without_dropped(source: Source) -> Source:
    """A tree without the named entries that are null."""
    value = dict(source.value)
    for section in _NAMED:
        entries = value.get(section)
        if isinstance(entries, dict):
            value[section] = {name: entry for name, entry in entries.items() if entry is not None}
    return source.reduced(value)


def _override(key: str, text: str) -> Source:
    place = SourceLocation(f"--set {key}={text}")
    if not all(key.split(".")):
        raise StudyError([Problem(place, "write --set key.subkey=value")])
    try:
        value = parse_yaml(text, str(place)).value
    except StudyError as error:
        raise StudyError([Problem(place, each.message) for each in error.problems]) from None
    return single_value(key, value, place)


def _with_axis(source: Source, axis: str, override: Source, values: Any) -> Source:
    """`source` with an axis of the grid that has the values of the command line."""
    place = SourceLocation(override.name)
    keys: list[Keys] = [("grid",), ("grid", axis)]
    if isinstance(values, list):
        keys += [("grid", axis, index) for index in range(len(values))]
    return source.merged(Source(source.name, {"grid": {axis: values}}, dict.fromkeys(keys, place)))


def _only(trials: tuple[Trial, ...], patterns: Sequence[str]) -> tuple[Trial, ...]:
    if not patterns:
        return trials
    kept = tuple(
        trial
        for trial in trials
        if any(fnmatch.fnmatchcase(trial.name, pattern) for pattern in patterns)
    )
    if not kept:
        names = "; ".join(trial.name for trial in trials)
        message = f"matches no trial; there are: {names}"
        raise StudyError([Problem(SourceLocation(f"--only {' '.join(patterns)}"), message)])
    return kept
