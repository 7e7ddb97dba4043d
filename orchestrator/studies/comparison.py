"""The work of `orchestrator.studies compare A B`: how two studies and their tables differ."""

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from orchestrator.console import say, say_labeled
from orchestrator.report.rows.row import Row
from orchestrator.report.study_report import StudyReport
from orchestrator.report.tables.cells import EMPTY, mean_and_deviation, signed
from orchestrator.studies.stored import find_study, recorded_study, store_of
from orchestrator.study.load import load_study
from orchestrator.study.study import Study
from orchestrator.tracking.store import TrackingStore
from pipelines.config import flattened, load_yaml
from pipelines.wording import counted

_MISSING = "-"
# Keys that only name and describe a study.
_NAMES = ("study", "description")
# Values of runs that make scores incomparable, and what to call them.
_CONDITIONS = (
    *(("data", "data sets"), ("code", "code versions")),
    *(("precision", "precisions"), ("workers", "numbers of workers")),
)


@dataclass(frozen=True)
class _Side:
    """One of the studies, with the recorded samples of a search. name: as the user wrote it. rows:
    of its table."""

    name: str
    study: Study
    rows: Sequence[Row]


def compare_studies(options: argparse.Namespace, console: Console) -> int:
    """Print the settings, the trials and the scores in which two studies differ."""
    store = store_of(options)
    first, second = (_read(store, name) for name in (options.first, options.second))
    settings = list(_setting_differences(first.study, second.study))
    trials = list(_trial_differences(first.study, second.study))
    header = ("key", first.name, second.name)
    if settings:
        console.print(_table("settings of the studies", header, settings, ()))
    if trials:
        named = ("key of the trials", first.name, second.name, "trials")
        console.print(_table("experiments of trials with equal names", named, trials, ()))
    if not settings and not trials:
        say(console, "the studies have the same settings")
    for line in _only_in(first, second):
        say(console, line)
    lines = list(_score_differences(first.rows, second.rows))
    if lines:
        scored = ("row", f"{first.name} mIoU %", f"{second.name} mIoU %", "difference", "n")
        console.print(_table("scores", scored, lines, (1, 2, 3, 4)))
    for warning in _warnings(first, second):
        say_labeled(console, "note", "yellow", warning)
    return 0


def _read(store: TrackingStore, name: str) -> _Side:
    """Read a study of the tracking store, or a study file. Raises TrackingError or StudyError."""
    if name.endswith((".yaml", ".yml")):
        report = StudyReport(load_study(Path(name)), store).read()
        return _Side(name, report.study, report.rows)
    with recorded_study(store, find_study(store, name)) as (file, options):
        report = StudyReport(load_study(file, options.overrides), store).read()
        return _Side(name, report.study, report.rows)


def _setting_differences(first: Study, second: Study) -> Iterator[tuple[str, str, str]]:
    """Yield the keys of the resolved studies with different values, and each `--set`."""
    a, b = map(_settings, (first, second))
    for key in dict.fromkeys([*a, *b]):
        if a.get(key, _MISSING) != b.get(key, _MISSING):
            yield key, _text(a, key), _text(b, key)


def _settings(study: Study) -> dict[str, Any]:
    """Return the values of a resolved study by dotted key, and each `--set`."""
    values = {
        key: value
        for key, value in flattened(load_yaml(study.resolved))
        if key.split(".")[0] not in _NAMES
    }
    for override in study.overridden:
        key, _, text = override.partition("=")
        values[f"--set {key}"] = text
    return values


def _trial_differences(first: Study, second: Study) -> Iterator[tuple[str, str, str, str]]:
    """Yield the settings in which experiments of trials with equal names differ, and for how many
    of these trials."""
    others = {trial.name: trial for trial in second.trials}
    pairs = [(trial, others[trial.name]) for trial in first.trials if trial.name in others]
    counts: dict[tuple[str, str, str], int] = {}
    for trial, other in pairs:
        a, b = (dict(flattened(asdict(each.experiment))) for each in (trial, other))
        for key in dict.fromkeys([*a, *b]):
            if a.get(key, _MISSING) != b.get(key, _MISSING):
                change = key, _text(a, key), _text(b, key)
                counts[change] = counts.get(change, 0) + 1
    for change, count in counts.items():
        yield *change, f"{count} of {len(pairs)}"


def _only_in(first: _Side, second: _Side) -> Iterator[str]:
    for side, other in ((first, second), (second, first)):
        names = {trial.name for trial in other.study.trials}
        alone = [trial.name for trial in side.study.trials if trial.name not in names]
        if alone:
            yield f"only in {side.name}: {counted(len(alone), 'trial')}: {'; '.join(alone)}"


def _score_differences(
    first: Sequence[Row], second: Sequence[Row]
) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield the mIoU of each row of both tables, and the mean difference over their common seeds.

    It has no interval: these comparisons are not among those that a table corrects for.
    """
    others = {_key(row): row for row in second}
    for row in first:
        other = others.get(_key(row))
        if other is None:
            continue
        seeds = [seed for seed in row.miou if seed in other.miou]
        same = seeds and _run_ids(row) == _run_ids(other)
        difference = EMPTY
        if seeds:
            mean = statistics.fmean(other.miou[seed] - row.miou[seed] for seed in seeds)
            difference = "same runs" if same else signed(mean)
        a, b = (mean_and_deviation(list(each.miou.values())) for each in (row, other))
        same_label = row.label == other.label
        label = row.label if same_label else f"{row.variant} ({row.label} and {other.label})"
        parts = [label, *row.grid_cell, *([row.sample.name] if row.sample else [])]
        yield ", ".join(parts), a, b, difference, str(len(seeds))


def _warnings(first: _Side, second: _Side) -> Iterator[str]:
    """Yield why the scores of rows in both tables may not be comparable."""
    others = {_key(row): row for row in second.rows}
    pairs = [(row, others[_key(row)]) for row in first.rows if _key(row) in others]
    scored = [(row, other) for row, other in pairs if row.miou and other.miou]
    for name, words in _CONDITIONS:
        count = sum(row.run_values(name) != other.run_values(name) for row, other in scored)
        if count:
            yield f"{count} of {len(scored)} rows compare different {words}"
    protocols = [side.study.config.report.protocol for side in (first, second)]
    if protocols[0] != protocols[1]:
        yield f"the tables use different protocols: {protocols[0]} and {protocols[1]}"


def _key(row: Row) -> tuple[str, tuple[str, ...], int | None]:
    """Return the row, the grid cell and the number of the sample, if it is of a search."""
    return row.variant, row.grid_cell, None if row.sample is None else row.sample.number


def _run_ids(row: Row) -> set[str]:
    return {result.run.run_id for result in row.finished if result.run is not None}


def _text(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return _MISSING
    value = values[key]
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _table(
    title: str,
    header: Sequence[str],
    lines: Sequence[Sequence[str]],
    numeric: Sequence[int],
) -> RichTable:
    table = RichTable(title=title, title_justify="left", title_style="bold")
    for index, name in enumerate(header):
        justify = "right" if index in numeric else "left"
        table.add_column(Text(name), justify=justify, overflow="fold")  # type: ignore[arg-type]
    for line in lines:
        table.add_row(*map(Text, line))
    return table
