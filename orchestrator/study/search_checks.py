"""Reads `from_search`, and checks what a study samples or takes from a search."""

import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from orchestrator.study.config import StudyConfig
from orchestrator.study.overlay import dotted_leaves, unknown_key
from orchestrator.study.sampling import MAX_SAMPLES, range_text
from orchestrator.study.search_match import Differences, differences_text, is_below
from orchestrator.study.search_result import FILE, FoundSample, SearchResult
from orchestrator.study.study import Trial
from orchestrator.study.validation import as_json
from orchestrator.study.yaml_source import Keys, Problem, Source, SourceLocation, read_yaml
from pipelines.wording import option

_FROM_SEARCH = "from_search"
# Keys that decide how a trial is scored, so that samples of them could not be compared.
_SCORING = ("evaluation", "data.dataset", "data.validation_split", "data.train_split")

#: Settings that a table commonly has otherwise than its search: it trains longer, on more images.
OF_THE_TABLE = (
    *("training.epochs", "training.steps", "evaluation"),
    *("data.train_split", "data.validation_split"),
)


def with_search_result(source: Source, problems: list[Problem]) -> Source:
    """Return a study with the content of the file that `from_search` names. Its path is relative
    to the study file, or to the working directory if no file names it."""
    name = source.value.get(_FROM_SEARCH)
    if not isinstance(name, str):
        return source
    location = source.location((_FROM_SEARCH,))
    base = Path(location.name).parent if location.line is not None else Path()
    try:
        file = Path(os.path.normpath(base / Path(name).expanduser()))
        exists = file.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # no permission, too long, no such user
        problems.append(Problem(location, f"`from_search` names {name}, which fails: {error}"))
        return source.without(_FROM_SEARCH)
    if not exists:
        reason = "is a directory" if file.is_dir() else "does not exist"
        message = (
            f"`from_search` names {file}, which {reason}; the report of a finished search writes "
            f"{FILE}"
        )
        problems.append(Problem(location, message))
        return source.without(_FROM_SEARCH)
    content = read_yaml(file, problems)
    if not isinstance(content.value, dict) or "rows" not in content.value:
        message = f"`from_search` names {file}, which is not a {FILE} of a search's report"
        problems.append(Problem(location, message))
        return source.without(_FROM_SEARCH)
    locations = {(_FROM_SEARCH, *keys): each for keys, each in content.locations.items()}
    return source.without(_FROM_SEARCH).merged(
        Source(source.name, {_FROM_SEARCH: content.value}, locations)
    )


def check_search(config: StudyConfig, source: Source) -> list[Problem]:
    """Return the problems of `sample`, `samples` and `from_search`."""
    return [*_sample(config, source), *_samples(config, source), *_found(config, source)]


def _sample(config: StudyConfig, source: Source) -> Iterator[Problem]:
    for key in config.sample:
        location = source.location(("sample", key))
        problem = unknown_key(key, location)
        if problem is not None:
            yield problem
        elif key in config.grid:
            yield Problem(location, f"`{key}` is sampled and also an axis of the grid; remove one")
        elif is_below(key, _SCORING):
            message = f"`{key}` decides how samples are scored, so it cannot be sampled"
            yield Problem(location, f"{message}; use the grid")
        elif is_below(key, [other for other in config.sample if other != key]):
            yield Problem(location, f"`{key}` is part of another sampled key; remove one")
    advice = "set it in `base`, or in neither"
    yield from _set_elsewhere(config, source, config.sample, f"sampled; {advice}")


def _samples(config: StudyConfig, source: Source) -> Iterator[Problem]:
    if config.sample and config.samples is None:
        message = (
            "`sample` needs `samples`, the number of samples of each row, such as `samples: 16`"
        )
        yield Problem(source.location(("sample",)), message)
    if config.samples is not None and not config.sample:
        message = "`samples` needs `sample`: the sampled keys, each with a range"
        yield Problem(source.location(("samples",)), message)
    if config.sample and config.kind != "search":
        message = (
            "`sample` needs `kind: search`, because a table must not choose by the scores that it "
            "shows; a table takes the best samples by `from_search`"
        )
        yield Problem(source.location(("sample",)), message)
    if config.sample and config.report.protocol is not None:
        message = (
            "`report.protocol` cannot be used with `sample`, because samples are compared by the "
            "validation during training; remove it, or score the best samples in a table"
        )
        yield Problem(source.location(("report", "protocol")), message)
    if isinstance(config.samples, int) and not 1 <= config.samples <= MAX_SAMPLES:
        message = f"`samples` must be at least 1 and at most {MAX_SAMPLES}, received "
        message += str(config.samples)
        yield Problem(source.location(("samples",)), message)
    sampling = config.sampling
    if sampling is not None and sampling.method == "tpe" and config.early_stopping is not None:
        message = (
            "`samples.method: tpe` cannot be used with `early_stopping`, because it needs the "
            "scores of complete training runs; remove one of them"
        )
        yield Problem(source.location(("samples", "method")), message)
    if sampling is not None and sampling.method == "tpe" and find_spec("optuna") is None:
        message = (
            "`samples.method: tpe` needs optuna, which is not installed; run python -m pip install "
            "'segmentation-orchestrator[tpe]'"
        )
        yield Problem(source.location(("samples", "method")), message)


def _found(config: StudyConfig, source: Source) -> Iterator[Problem]:
    result = config.search_result
    if result is None:
        return
    location = source.location((_FROM_SEARCH,))
    if config.kind != "table":
        yield Problem(location, "`from_search` needs `kind: table`; a search samples by itself")
    taken = {key: None for row in result.rows for key in row.values}
    seen: set[str] = set()
    for index, row in enumerate(result.rows):
        cell = as_json([row.variant, sorted(row.axes.items())])
        if cell in seen:
            where = source.location((_FROM_SEARCH, "rows", index))
            yield Problem(where, f"`rows` has {row.variant!r} twice with the same axes; remove one")
        seen.add(cell)
        if row.sample >= result.samples or row.tried > result.samples:
            where = source.location((_FROM_SEARCH, "rows", index))
            message = f"sample {row.sample} of {row.tried} that were tried is impossible with "
            yield Problem(where, message + f"`samples: {result.samples}`")
        for key in row.values:
            written = source.location((_FROM_SEARCH, "rows", index, "values", key))
            problem = unknown_key(key, written)
            if problem is not None:
                yield problem
            elif is_below(key, _SCORING):
                message = f"`{key}` decides how trials are scored, so a search cannot set it"
                yield Problem(written, message)
            elif key not in result.ranges:
                yield Problem(written, f"`{key}` is not among the `ranges` of the search")
            elif not result.ranges[key].contains(row.values[key]):
                message = f"`{key}` is {row.values[key]!r}, which the search's range "
                message += f"{range_text(result.ranges[key])} does not contain"
                yield Problem(written, message)
    for key in taken:
        if key in config.grid:
            message = f"`from_search` sets `{key}`, which is an axis of the grid; remove the axis"
            yield Problem(source.location(("grid", key)), message)
    advice = "remove it there, or its values in the file of `from_search`"
    yield from _set_elsewhere(config, source, taken, f"taken from a search; {advice}")


def overridden_values(config: StudyConfig, overrides: Sequence[Source]) -> Iterator[Problem]:
    """Yield the `--set` that would replace what `from_search` found, while the table says that it
    has the search's values. overrides: of the experiments."""
    result = config.search_result
    if result is None:
        return
    taken = {key for row in result.rows for key in row.values}
    for one in overrides:
        for leaf in dotted_leaves(one.value):
            if is_below(leaf, list(taken)) or any(key.startswith(f"{leaf}.") for key in taken):
                message = (
                    f"`{leaf}` is taken from search {result.search!r}; add {option('set')} "
                    f"{_FROM_SEARCH}=null to use one value for all rows, or change the values in "
                    "the file"
                )
                yield Problem(SourceLocation(one.name), message)


def _set_elsewhere(
    config: StudyConfig, source: Source, keys: Mapping[str, Any], what: str
) -> Iterator[Problem]:
    """Yield the sampled or found keys that a variant or `when` sets, too. what: where the keys come
    from, and what to do."""
    overrides: list[Keys] = [("variants", name, "set") for name in config.variants]
    overrides += [("when", index, "set") for index in range(len(config.when))]
    for override in overrides:
        if override not in source.locations:
            continue
        for leaf in dotted_leaves(source.subtree(override).value):
            if is_below(leaf, list(keys)) or any(key.startswith(f"{leaf}.") for key in keys):
                message = f"`{'.'.join(map(str, override))}` sets `{leaf}`, which is {what}"
                yield Problem(source.location((*override, *leaf.split("."))), message)


def search_warnings(config: StudyConfig, source: Source, trials: Sequence[Trial]) -> list[Problem]:
    """Return warnings about what the trials of a table take from `from_search`."""
    result = config.search_result
    if result is None:
        return []
    untuned = dict.fromkeys(", ".join(each.cell) for each in trials if each.tuned is None)
    lines = tuning_lines(result, trials, list(untuned))
    known = {*config.variants, *(found.variant for _, found in _taken(trials))}
    others = dict.fromkeys(row.variant for row in result.rows if row.variant not in known)
    if others:
        names = ", ".join(others)
        lines.append(f"search {result.search!r} has values for rows that this study lacks: {names}")
    return [Problem(source.location((_FROM_SEARCH,)), line) for line in lines]


def tuning_lines(
    result: SearchResult, trials: Sequence[Trial], untuned: Sequence[str]
) -> list[str]:
    """Return sentences about rows that were not tuned alike, or not as this table trains them.
    untuned: names of those without values."""
    return [
        *_untuned_lines(result, untuned),
        *_unequal_lines(result, trials),
        *_by_name_lines(result, trials),
        *_base_lines(result, trials),
    ]


def _untuned_lines(result: SearchResult, untuned: Sequence[str]) -> Iterator[str]:
    if untuned:
        yield (
            f"search {result.search!r} has no values for {'; '.join(untuned)}, so rows that were "
            "tuned are compared with rows that were not"
        )


def _unequal_lines(result: SearchResult, trials: Sequence[Trial]) -> Iterator[str]:
    tried: dict[int, dict[str, None]] = {}
    for trial, found in _taken(trials):
        name = ", ".join([trial.variant, *map(str, found.axes.values())])
        tried.setdefault(found.tried, {})[name] = None
    if len(tried) > 1:
        listed = "; ".join(f"{count}: {', '.join(names)}" for count, names in sorted(tried.items()))
        yield f"search {result.search!r} tried different numbers of samples ({listed})"


def _by_name_lines(result: SearchResult, trials: Sequence[Trial]) -> Iterator[str]:
    names = dict.fromkeys(t.variant for t in trials if t.tuned is not None and t.tuned.by_name)
    if names:
        yield (
            f"the file of search {result.search!r} does not say what its rows set, so they were "
            f"matched by name alone ({', '.join(names)}); the report of the search writes it anew"
        )


def _base_lines(result: SearchResult, trials: Sequence[Trial]) -> Iterator[str]:
    differing = base_differences(trials)
    unexpected = {key: each for key, each in differing.items() if not is_below(key, OF_THE_TABLE)}
    if unexpected:
        yield (
            f"search {result.search!r} had other settings than this table: "
            f"{differences_text(unexpected)}"
        )


def base_differences(trials: Sequence[Trial]) -> Differences:
    """Return the settings that no row changes in which a search differs from its table."""
    return {
        key: each
        for trial in trials
        if trial.tuned is not None
        for key, each in trial.tuned.others.items()
    }


def _taken(trials: Sequence[Trial]) -> Iterator[tuple[Trial, FoundSample]]:
    """Yield the trials that take values from a search, with these."""
    for trial in trials:
        if trial.tuned is not None:
            yield trial, trial.tuned.found
