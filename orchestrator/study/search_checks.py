"""Reads `from_search`, and checks what a study samples or takes from a search."""

import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from orchestrator.study.conditions import holds
from orchestrator.study.config import StudyConfig
from orchestrator.study.overlay import dotted_leaves, unknown_key
from orchestrator.study.sampling import MAX_SAMPLES, range_text
from orchestrator.study.search_result import FILE, FoundSample, SearchResult
from orchestrator.study.validation import as_json
from orchestrator.study.yaml_source import Keys, Problem, Source, read_yaml

_FROM_SEARCH = "from_search"
# Keys that decide how a trial is scored, so that samples of them could not be compared.
_SCORING = ("evaluation", "data.dataset", "data.validation_split", "data.train_split")


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
        elif _below(key, _SCORING):
            message = f"`{key}` decides how samples are scored, so it cannot be sampled"
            yield Problem(location, f"{message}; use the grid")
        elif _below(key, [other for other in config.sample if other != key]):
            yield Problem(location, f"`{key}` is part of another sampled key; remove one")
    yield from _set_elsewhere(config, source, config.sample, "sampled")


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
            "scores of whole trainings; remove one of them"
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
            elif _below(key, _SCORING):
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
    yield from _set_elsewhere(config, source, taken, "taken from a search")


def _set_elsewhere(
    config: StudyConfig, source: Source, keys: Mapping[str, Any], what: str
) -> Iterator[Problem]:
    """Yield the sampled or found keys that a variant or `when` sets, too."""
    overrides: list[Keys] = [("variants", name, "set") for name in config.variants]
    overrides += [("when", index, "set") for index in range(len(config.when))]
    for override in overrides:
        if override not in source.locations:
            continue
        for leaf in dotted_leaves(source.subtree(override).value):
            if _below(leaf, list(keys)) or any(key.startswith(f"{leaf}.") for key in keys):
                message = (
                    f"`{'.'.join(map(str, override))}` sets `{leaf}`, which is {what}; set it in "
                    "`base`, or in neither"
                )
                yield Problem(source.location((*override, *leaf.split("."))), message)


def search_warnings(config: StudyConfig, source: Source, untuned: Sequence[str]) -> list[Problem]:
    """Return a warning if some rows have no values in `from_search`, or fewer samples."""
    result = config.search_result
    if result is None:
        return []
    others = [row.variant for row in result.rows if row.variant not in config.variants]
    lines = [*untuned_lines(result, untuned), *unequal_lines(result, config.variants)]
    if others:
        names = ", ".join(dict.fromkeys(others))
        lines.append(f"search {result.search!r} has values for rows that this study lacks: {names}")
    return [Problem(source.location((_FROM_SEARCH,)), line) for line in lines]


def found_sample(
    result: SearchResult, variant: str, values: Mapping[str, Any]
) -> FoundSample | None:
    """Return the sample that a search found for a cell; None if there is none. values: of the
    cell's experiment, nested by key."""
    rows = (row for row in result.rows if row.variant == variant)
    return next((row for row in rows if holds(row.axes, values)), None)


def untuned_lines(result: SearchResult, untuned: Sequence[str]) -> list[str]:
    """Return a sentence about the rows that a search has no values for."""
    if not untuned:
        return []
    return [
        f"search {result.search!r} has no values for {'; '.join(untuned)}, so rows that were tuned "
        "are compared with rows that were not"
    ]


def unequal_lines(result: SearchResult, variants: Mapping[str, Any]) -> list[str]:
    """Return a sentence if the rows of a study were tuned with different numbers of samples."""
    tried: dict[int, list[str]] = {}
    for row in result.rows:
        if row.variant in variants:
            name = ", ".join([row.variant, *map(str, row.axes.values())])
            tried.setdefault(row.tried, []).append(name)
    if len(tried) < 2:
        return []
    listed = "; ".join(f"{count}: {', '.join(names)}" for count, names in sorted(tried.items()))
    return [f"search {result.search!r} tried different numbers of samples ({listed})"]


def _below(key: str, others: Sequence[str]) -> bool:
    """Whether a dotted key is one of the others, or below one."""
    return any(key == other or key.startswith(f"{other}.") for other in others)
