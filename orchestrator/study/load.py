"""Loads a study file: merges the files it extends and the command line, and expands its trials."""

import fnmatch
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.study.checks import (
    check_splits,
    check_study,
    check_workers,
    overlapping_splits,
)
from orchestrator.study.config import StudyConfig, field_names
from orchestrator.study.expand import expand
from orchestrator.study.metric_checks import check_metrics
from orchestrator.study.overlay import inheritable
from orchestrator.study.study import Study, Trial
from orchestrator.study.user_code import check_protocol_metrics, import_modules
from orchestrator.study.validation import ANY, closest, examine, suggestion
from orchestrator.study.yaml_source import (
    Keys,
    Problem,
    Source,
    SourceLocation,
    StudyError,
    mapping_source,
    parse_yaml,
    read_yaml,
    single_value,
)
from pipelines.config import dump_yaml

# Not inherited, because two studies with one name would share a run in the tracking store.
_NOT_INHERITED = ("study", "description", "extends")
# Mappings by user-defined names; null removes an inherited entry.
_NAMED = ("variants", "grid", "protocols")
# Replace invalid parts that others refer to by name, so that these references remain valid.
_PLACEHOLDERS: dict[Keys, Any] = {
    ("study",): "study",
    ("variants", ANY): {},
    ("protocols", ANY): {},
}
# Keys that `--set` may change without changing the table. Another `study` gets its own page.
_TABLE_UNCHANGED = ("study", "description", "resources", "limits", "notify", "first")
# If one of these is invalid, checks across the parts of the study would be misleading.
_REQUIRED = ("base", "variants", "grid", "kind", "protocols")


def load_study(
    path: Path | Mapping[str, Any],
    overrides: Sequence[tuple[str, str]] = (),
    only: Sequence[str] = (),
) -> Study:
    """Read, validate and expand a study file, or a study given as a mapping of the same keys.

    overrides: `(dotted key, YAML text)` pairs of the command line. A key of the study itself
        (`resources.workers`, `seeds`) overrides the file. A key of the experiment
        (`training.epochs`) overrides variants, grid and `when`, too. An axis of the grid gets that
        single value.
    only: patterns; a trial is kept if one of them matches its whole name (`*` matches anything).

    Raises StudyError with all problems at once.
    """
    problems: list[Problem] = []
    unreadable: list[Problem] = []
    if isinstance(path, Path):
        source = _read(path, (), problems, unreadable)
        original = path.read_text(encoding="utf-8")
    else:
        source = mapping_source(path, "the study")
        original = dump_yaml(source.value)
        source = _extended_source(source, Path(), (), problems, unreadable)
    source = _without_removed(source)
    if unreadable and "variants" not in source.value:
        # The missing file may define them; the rest is checked anyway.
        source = source.merged(Source(source.name, {"variants": {"placeholder": {}}}))
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
    problems += _lengths(experiment_overrides)
    result = examine(source, StudyConfig, placeholders=_PLACEHOLDERS)
    config = result.value
    problems += result.problems
    incomplete = any(
        keys[:1] == keys or keys[0] == "grid" for keys in result.removed if keys[0] in _REQUIRED
    )
    if config is None or incomplete or unreadable:
        raise StudyError([*unreadable, *problems])
    source = result.source
    problems += check_study(config, source)
    try:
        import_modules(config.imports, source)
        check_protocol_metrics(config.protocols, source)
    except StudyError as error:
        raise StudyError([*problems, *error.problems]) from None
    trials, expansion_problems, unused = expand(config, source, experiment_overrides)
    problems += [
        *expansion_problems,
        *check_splits(config, trials, source),
        *check_workers(config, trials, source),
        *check_metrics(config, trials, source),
    ]
    # A condition that no cell meets is an error, unless `--set` may have changed its keys.
    if problems or (unused and not overrides):
        raise StudyError(problems or unused)
    return Study(
        config,
        _only(trials, only),
        original,
        _resolved(source, overrides),
        (*unused, *overlapping_splits(trials, source)),
        trials,
        tuple(
            f"{key}={text}" for key, text in overrides if key.split(".")[0] not in _TABLE_UNCHANGED
        ),
    )


def _lengths(overrides: Sequence[Source]) -> Iterator[Problem]:
    """Yield a problem if overrides set both lengths of a training, of which the last would win."""
    given: dict[str, str] = {}
    for one in overrides:
        training = one.value.get("training")
        for key in ("epochs", "steps"):
            if isinstance(training, dict) and training.get(key) is not None:
                given[key] = one.name
    if len(given) > 1:
        message = "`training.epochs` and `training.steps` replace each other; remove one of them"
        yield Problem(SourceLocation(" ".join(given.values())), message)


def override_of(text: str) -> tuple[str, str]:
    """Split `KEY=VALUE` of the command line into a pair for `load_study`."""
    key, _, value = text.partition("=")
    return key.strip(), value


def _resolved(source: Source, overrides: Sequence[tuple[str, str]]) -> str:
    """Return the study as one YAML document. Each `--set` is a comment at the top, because a file
    cannot express that it overrides variants, grid and `when`."""
    comments = [f"# --set {key}={text}".replace("\n", " ") + "\n" for key, text in overrides]
    document = {key: value for key, value in source.value.items() if key != "extends"}
    return "".join(comments) + dump_yaml(document)


def _read(
    path: Path, chain: tuple[Path, ...], problems: list[Problem], unreadable: list[Problem]
) -> Source:
    """Return a study file merged over the files it extends.

    chain: the files that lead here by `extends`. Files that cannot be extended are added to
    `unreadable`, all other problems to `problems`.
    """
    source = read_yaml(path, problems)
    if not isinstance(source.value, dict):
        raise StudyError([Problem(source.location(()), "a study must be a mapping of keys")])
    return _extended_source(source, path.parent, (*chain, path.resolve()), problems, unreadable)


def _extended_source(
    source: Source,
    directory: Path,
    chain: tuple[Path, ...],
    problems: list[Problem],
    unreadable: list[Problem],
) -> Source:
    """Return a study merged over the files it extends. directory: that their paths are relative to;
    see `_read`."""
    base = Source(source.name, {})
    for keys, name in _extended(source):
        file = Path(os.path.normpath(directory / Path(name).expanduser()))
        location = source.location(keys)
        if file.resolve() in chain:
            cycle = [*chain[chain.index(file.resolve()) :], file]
            names = " -> ".join(each.name for each in cycle)
            unreadable.append(Problem(location, f"`extends` has a cycle: {names}"))
        elif file.is_dir():
            unreadable.append(Problem(location, f"`extends` names {file}, which is a directory"))
        elif not file.is_file():
            unreadable.append(Problem(location, f"`extends` names {file}, {_not_found(file)}"))
        else:
            inherited = _read(file, chain, problems, unreadable)
            for key in _NOT_INHERITED:
                inherited = inherited.without(key)
            base = _extended_by(base, inherited)
    if not unreadable:
        problems += _unused_nulls(base, source)
    # An entry that an extended file removes and this file defines again starts empty.
    return _extended_by(_without_removed(base), source)


def _extended_by(base: Source, source: Source) -> Source:
    """Return a study file overridden by one that extends it."""
    variants = source.value.get("variants")
    names = variants if isinstance(variants, dict) else {}
    for keys in (("base",), *(("variants", name, "set") for name in names)):
        base = inheritable(base, source, keys)
    return base.merged(source)


def _extended(source: Source) -> list[tuple[Keys, str]]:
    value = source.value.get("extends", [])
    if isinstance(value, str):
        return [(("extends",), value)]
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return [(("extends", index), entry) for index, entry in enumerate(value)]
    message = "`extends` must be a path, or a list of paths, relative to this file"
    raise StudyError([Problem(source.location(("extends",)), message)])


def _not_found(file: Path) -> str:
    if not file.parent.is_dir():
        return f"but the directory {file.parent} does not exist"
    close = closest(file.stem, sorted(each.stem for each in file.parent.glob("*.yaml")))
    hint = f"; did you mean {close}.yaml?" if close else ""
    return f"which does not exist{hint}"


def _unused_nulls(base: Source, override: Source) -> Iterator[Problem]:
    """Yield the nulls of `override` that remove nothing from `base`."""
    for section in _NAMED:
        entries = override.value.get(section)
        if not isinstance(entries, dict):
            continue
        inherited = base.value.get(section)
        names = list(inherited) if isinstance(inherited, dict) else []
        for name, value in entries.items():
            if value is None and name not in names:
                message = (
                    f"`{section}.{name}` is null, which removes an inherited entry, but no entry "
                    "of that name is inherited"
                )
                if names:
                    message += f"; {suggestion(name, names)}"
                if section == "variants":
                    message += "; write `{}` for a variant that sets nothing"
                yield Problem(override.location((section, name)), message)


def _without_removed(source: Source) -> Source:
    """Return the tree without named entries that are null."""
    value = dict(source.value)
    for section in _NAMED:
        entries = value.get(section)
        if isinstance(entries, dict):
            value[section] = {name: entry for name, entry in entries.items() if entry is not None}
    return source.pruned(value)


def _override(key: str, text: str) -> Source:
    location = SourceLocation(f"--set {key}={text}")
    if not all(key.split(".")):
        raise StudyError([Problem(location, "the key is empty; use --set key.subkey=value")])
    try:
        value = parse_yaml(text, str(location)).value
    except StudyError as error:
        raise StudyError([Problem(location, each.message) for each in error.problems]) from None
    return single_value(key, value, location)


def _with_axis(source: Source, axis: str, override: Source, values: Any) -> Source:
    """Return `source` with the command line's values for an axis of the grid."""
    location = SourceLocation(override.name)
    keys: list[Keys] = [("grid",), ("grid", axis)]
    if isinstance(values, list):
        keys += [("grid", axis, index) for index in range(len(values))]
    locations = dict.fromkeys(keys, location)
    return source.merged(Source(source.name, {"grid": {axis: values}}, locations))


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
        message = f"matches no trial; the study has: {names}"
        raise StudyError([Problem(SourceLocation(f"--only {' '.join(patterns)}"), message)])
    return kept
