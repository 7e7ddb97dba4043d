"""Loads a study file: merges the files it extends and the command line, and expands its trials."""

import fnmatch
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.study.checks import (
    check_splits,
    check_study,
    check_workers,
    ignored_powers,
    overlapping_splits,
)
from orchestrator.study.config import StudyConfig, field_names
from orchestrator.study.expand import expand
from orchestrator.study.extends import extended_source, read_study, without_removed
from orchestrator.study.mapping_source import mapping_source
from orchestrator.study.metric_checks import check_metrics
from orchestrator.study.overlay import unknown_key
from orchestrator.study.sampling import CellName, SearchSample
from orchestrator.study.search_checks import (
    check_search,
    overridden_values,
    search_warnings,
    with_search_result,
)
from orchestrator.study.study import Study, Trial
from orchestrator.study.user_code import check_protocol_metrics, import_modules
from orchestrator.study.validation import ANY, examine
from orchestrator.study.yaml_source import (
    Keys,
    Problem,
    Source,
    SourceLocation,
    StudyError,
    parse_yaml,
    single_value,
    without_nodes,
)
from pipelines.config import dump_yaml
from pipelines.wording import option

# Replace invalid parts that others refer to by name, so that these references remain valid.
_PLACEHOLDERS: dict[Keys, Any] = {
    ("study",): "study",
    ("variants", ANY): {},
    ("protocols", ANY): {},
}
# Keys that `--set` may change without changing the table. Another `study` gets its own page.
_TABLE_UNCHANGED = ("study", "description", "resources", "limits", "notify", "mirror", "first")
# An invalid part of one of these makes the whole of it invalid.
_INDIVISIBLE = ("grid", "sample", "samples", "from_search")
# If one of these is invalid, checks across the parts of the study would be misleading.
_REQUIRED = ("base", "variants", "kind", "protocols", *_INDIVISIBLE)


def load_study(
    path: Path | Mapping[str, Any],
    overrides: Sequence[tuple[str, str]] = (),
    only: Sequence[str] = (),
) -> Study:
    """Read, validate and expand a study file, or a study given as a mapping of the same keys.

    overrides: `(dotted key, YAML text)` pairs of the command line. A key of the study itself
        (`resources.workers`, `seeds`) overrides the file. A key of the experiment
        (`training.epochs`) overrides variants, grid and `when`, too. An axis of the grid gets that
        single value, and so does a sampled key, which is no longer sampled.
    only: names and patterns; a trial is kept if one of them is or matches its whole name (`*`
        matches anything).

    Raises StudyError with all problems at once.
    """
    problems: list[Problem] = []
    unreadable: list[Problem] = []
    if isinstance(path, Path):
        source = read_study(path, (), problems, unreadable)
        original = path.read_text(encoding="utf-8")
    else:
        source = mapping_source(path, "the study")
        original = dump_yaml(source.value)
        source = extended_source(source, Path(), (), problems, unreadable)
    source = without_removed(source)
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
        grid, sampled = source.value.get("grid"), source.value.get("sample")
        axis = key.removeprefix("grid.")
        if key.startswith("grid."):
            source = _with_axis(source, axis, one, one.at(tuple(key.split("."))))
        elif key.split(".")[0] in field_names(StudyConfig):
            source = source.merged(one)
        elif isinstance(grid, dict) and axis in grid:
            source = _with_axis(source, axis, one, [one.at(tuple(axis.split(".")))])
        else:
            if isinstance(sampled, dict) and key in sampled:
                source = _without_entry(source, "sample", key)
            experiment_overrides.append(one)
    source = with_search_result(source, problems)
    problems += _lengths(experiment_overrides)
    result = examine(source, StudyConfig, placeholders=_PLACEHOLDERS)
    config = result.value
    problems += result.problems
    incomplete = any(
        keys[:1] == keys or keys[0] in _INDIVISIBLE
        for keys in result.removed
        if keys[0] in _REQUIRED
    )
    if config is None or incomplete or unreadable:
        raise StudyError([*unreadable, *problems])
    source = result.source
    problems += [*check_study(config, source), *check_search(config, source)]
    problems += overridden_values(config, experiment_overrides)
    try:
        import_modules(config.imports, source)
        check_protocol_metrics(config.protocols, source)
    except StudyError as error:
        raise StudyError([*problems, *error.problems]) from None
    loaded = _Loaded(
        config,
        source,
        original,
        tuple(overrides),
        experiment_overrides,
        tuple(only),
        tuple(problems),
    )
    return loaded.study({})


@dataclass(frozen=True)
class _Loaded:
    """A study file that was read and checked, but not expanded yet.

    problems: in addition to those of its trials. See `Study` and `load_study` for the others.
    """

    config: StudyConfig
    source: Source
    text: str
    overrides: tuple[tuple[str, str], ...]
    experiment_overrides: list[Source]
    only: tuple[str, ...]
    problems: tuple[Problem, ...]

    def study(self, samples: Mapping[CellName, Sequence[SearchSample]]) -> Study:
        """Return the study with its trials. samples: see `Study.with_samples`."""
        config, source = self.config, self.source
        expanded = expand(config, source, self.experiment_overrides, samples)
        trials = expanded.trials
        problems = [
            *self.problems,
            *expanded.problems,
            *check_splits(config, trials, source),
            *check_workers(config, trials, source),
            *check_metrics(config, trials, source),
        ]
        # A condition that no cell meets is an error, unless `--set` may have changed its keys.
        if problems or (expanded.unused and not self.overrides):
            raise StudyError(problems or expanded.unused)
        warnings = (
            *expanded.unused,
            *overlapping_splits(trials, source),
            *ignored_powers(trials, source),
            *search_warnings(config, source, trials),
        )
        overridden = [
            f"{key}={text}"
            for key, text in self.overrides
            if key.split(".")[0] not in _TABLE_UNCHANGED
        ]
        return Study(
            config,
            _only(trials, self.only),
            self.text,
            _resolved(source, self.overrides, expanded.unneeded),
            warnings,
            trials,
            tuple(overridden),
            expanded.base,
            self.study,
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


def _resolved(
    source: Source, overrides: Sequence[tuple[str, str]], unneeded: Collection[Keys]
) -> str:
    """Return the study as one YAML document. Each `--set` is a comment at the top, because a file
    cannot express that it overrides variants, grid and `when`.

    unneeded: keys of inherited entries to leave out, which would be errors in the document.
    """
    comments = [f"# --set {key}={text}".replace("\n", " ") + "\n" for key, text in overrides]
    document = without_nodes(source.value, {("extends",), *unneeded})
    return "".join(comments) + dump_yaml(document)


def _override(key: str, text: str) -> Source:
    location = SourceLocation(f"{option('set')} {key}={text}")
    if not all(key.split(".")):
        message = f"the key is empty; use {option('set')} key.subkey=value"
        raise StudyError([Problem(location, message)])
    first, keys = key.split(".")[0], field_names(StudyConfig)
    if first not in keys and (problem := unknown_key(first, location, keys)):
        raise StudyError([problem])
    try:
        parsed = parse_yaml(text, str(location))
    except StudyError as error:
        raise StudyError([Problem(location, each.message) for each in error.problems]) from None
    if not parsed.locations:  # YAML reads nothing as null, which a user may not have meant
        message = f"the value is empty; use {key}=null for no value, or {key}=\"''\" for empty text"
        raise StudyError([Problem(location, message)])
    return single_value(key, parsed.value, location)


def _without_entry(source: Source, section: str, name: str) -> Source:
    """Return `source` without a named entry."""
    entries = {key: each for key, each in source.value[section].items() if key != name}
    return source.pruned({**source.value, section: entries})


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
        # A name that has brackets, such as `a, [64, 64]`, does not match itself as a pattern.
        if trial.name in patterns
        or any(fnmatch.fnmatchcase(trial.name, pattern) for pattern in patterns)
    )
    if not kept:
        names = "; ".join(trial.name for trial in trials)
        message = f"matches no trial; the study has: {names}"
        location = SourceLocation(f"{option('only')} {' '.join(patterns)}")
        raise StudyError([Problem(location, message)])
    return kept
