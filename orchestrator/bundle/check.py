"""Checks a bundle without the data: recomputes every score and the table from the counts."""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from orchestrator.bundle.content import (
    DESCRIPTION,
    OWN,
    SOURCES,
    STUDY_FILE,
    TABLES,
    Bundle,
    BundledCounts,
    BundleError,
    digests,
)
from orchestrator.bundle.saved_models import local_model, renamed
from orchestrator.report.documents.records import as_csv, table_records
from orchestrator.report.documents.report import Report
from orchestrator.report.rows.comparisons import compare_rows
from orchestrator.report.rows.results import Result, Results, score_of
from orchestrator.report.rows.row import build_rows
from orchestrator.report.statistics.resampled import ScoreRef
from orchestrator.study.load import load_study
from orchestrator.study.study import Study
from orchestrator.study.yaml_source import parse_yaml
from orchestrator.tracking.queries import StoreSnapshot
from orchestrator.tracking.samples import recorded_samples, with_matching_samples
from orchestrator.tracking.store import TrackingError
from pipelines.data.manifest import metric_name
from pipelines.evaluation.counts import Counts, class_iou, read_counts
from pipelines.evaluation.measuring import build_metrics
from pipelines.evaluation.metrics import COUNT_METRICS, Measured, undefined_as_nan
from pipelines.evaluation.statistics_file import STATISTICS_FILE, read_statistics
from pipelines.wording import counted

# Relative tolerance of scores and statistics, because libraries may sum in another order.
_TOLERANCE = 1e-9
# Not computed from the counts: texts about the machine that wrote the bundle.
_TEXTS = ("uncertain",)


@dataclass(frozen=True)
class CheckResult:
    """The result of a check. scores, cells: numbers of recomputed scores and of compared values of
    the table. problems: one sentence each; empty if the bundle is correct. notes: what the counts
    cannot show."""

    scores: int
    cells: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def check_bundle(directory: Path) -> CheckResult:
    """Check the files, the scores of all trials and all values of the table.

    Imports the study's own modules, if it has any, from here or else from the bundle. Raises
    BundleError or StudyError if the bundle cannot be read.
    """
    bundle = Bundle.read(directory)
    present = digests(directory)
    problems = [*_changed_files(bundle, present), *_wrong_sources(bundle, directory)]
    study = bundled_study(bundle, directory)
    source = BundledCounts(directory)
    results = Results(study, source, _identities(bundle, study), bundle.codes).read(
        StoreSnapshot(list({run.run_id: run for run in bundle.runs.values()}.values()), ())
    )
    unmeasured: set[str] = set()
    scores, rescored = 0, []
    for result in results:
        rescored.append(result)
        score = score_of(study, result)
        if score is None or result.run is None:
            continue
        try:
            counts = read_counts(source.download_file(score.run_id, score.counts_path, directory))
        except (TrackingError, ValueError) as error:
            problems.append(f"{result.trial.name}: {error}")
            continue
        prefix = score.metric.removesuffix("miou")
        measured, wrong = _measured(source, score, counts, directory)
        problems += [f"{result.trial.name}: {each}" for each in wrong]
        named = scores_of(counts, measured)
        given = {metric_name(f"{prefix}{name}"): value for name, value in named.items()}
        unmeasured |= _without_sums(study, result, measured)
        rescored[-1] = replace(
            result, run=replace(result.run, metrics={**result.run.metrics, **given})
        )
        for name, value in given.items():
            recorded = result.run.metrics.get(name)
            if recorded is None:
                continue
            scores += 1
            if not _equal(recorded, value):
                problems.append(
                    f"{result.trial.name}: {name} is {recorded!r} in the bundle, but its "
                    f"counts give {value!r}"
                )
    compared = compare_rows(study, build_rows(study, rescored))
    recomputed = table_records(study, compared.rows, study.config.published)
    cells, differing = _compare(bundle.table, recomputed)
    report = Report(study, compared.rows, compared.overall)
    texts = {"table.md": report.markdown(), "table.tex": report.latex()}
    if bundle.table and not differing:
        texts["table.csv"] = as_csv(bundle.table)
    differing += _wrong_tables(bundle, directory, present, texts)
    notes = _notes(bundle, study, sorted(unmeasured))
    return CheckResult(scores, cells, (*problems, *differing), notes)


def scores_of(counts: Counts, measured: Sequence[Measured] = ()) -> dict[str, float]:
    """Return the metrics that counts by image and class and other sums by image determine, by their
    names in MLflow without the prefix. NaN values, of absent classes, are left out."""
    totals = counts.values.sum(axis=0).astype(np.float64)
    with undefined_as_nan():
        metrics = {
            name: float(metric.score(totals.ravel())) for name, metric in COUNT_METRICS.items()
        }
    iou = zip(counts.classes, class_iou(totals).tolist(), strict=True)
    metrics |= {f"iou/{name}": value for name, value in iou}
    for each in measured:
        metrics |= each.named_scores(counts.classes)
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _measured(
    source: BundledCounts, score: ScoreRef, counts: Counts, directory: Path
) -> tuple[list[Measured], list[str]]:
    """Return the metrics of a score that have sums by image, and what is wrong with their file."""
    path = str(PurePosixPath(score.counts_path).with_name(STATISTICS_FILE))
    try:
        statistics = read_statistics(source.download_file(score.run_id, path, directory))
    except TrackingError:  # the study has no such metrics, or an older version trained it
        return [], []
    except ValueError as error:
        return [], [str(error)]
    if statistics.identifiers != counts.identifiers:
        return [], [f"{STATISTICS_FILE} and counts.arrow cover different images"]
    measured, wrong = [], []
    for each in build_metrics([*statistics.configs.values()], len(counts.classes)):
        sums = statistics.values[each.key]
        if sums.shape[1] == each.length:
            measured.append(Measured(each.key, each.metric, sums))
        else:
            wrong.append(
                f"metric {each.key}: the file has {sums.shape[1]} sums per image, expected "
                f"{each.length}"
            )
    return measured, wrong


def _without_sums(study: Study, result: Result, measured: Sequence[Measured]) -> set[str]:
    """Return the metrics of a trial that cannot be recomputed."""
    protocol, own = study.config.report.protocol, result.trial.experiment.evaluation
    configs = study.config.evaluation_under(protocol, own).metric_configs
    return {config.key for config in configs} - {each.key for each in measured}


def bundled_study(
    bundle: Bundle, directory: Path, overrides: Sequence[tuple[str, str]] | None = None
) -> Study:
    """Load the study of a bundle, with the samples of its runs. Its own modules are imported from
    here, or else from the bundle's sources. overrides: by default, those of the bundle."""
    with _own_modules(directory):
        given = bundle.overrides if overrides is None else overrides
        file = directory / STUDY_FILE
        text = file.read_text(encoding="utf-8")
        local = renamed(text, lambda name: local_model(name, directory))
        given = [
            (key, renamed(each, lambda name: local_model(name, directory))) for key, each in given
        ]
        study = load_study(file if local == text else parse_yaml(local, str(file)).value, given)
        recorded = recorded_samples(study, list(bundle.runs.values()))
        return with_matching_samples(
            study,
            recorded,
            lambda larger: [trial for trial in larger.trials if trial.name in bundle.runs],
        )


@contextmanager
def _own_modules(directory: Path) -> Iterator[None]:
    """Search the bundle's own sources last."""
    path = str(directory / SOURCES / OWN)
    sys.path.append(path)
    try:
        yield
    finally:
        sys.path.remove(path)


def _identities(bundle: Bundle, study: Study) -> dict[str, str]:
    names = {trial.name for trial in study.trials}
    if differing := sorted((bundle.runs.keys() - names) | (names ^ bundle.codes.keys())):
        raise BundleError(
            f"{STUDY_FILE} and {DESCRIPTION} do not both have the trial {differing[0]!r}; the "
            "bundle was changed"
        )
    return {
        trial.name: bundle.runs[trial.name].identity if trial.name in bundle.runs else ""
        for trial in study.trials
    }


def _changed_files(bundle: Bundle, present: Mapping[str, str]) -> Iterator[str]:
    for name, digest in bundle.files.items():
        if name not in present:
            yield f"{name} is missing"
        elif present[name] != digest:
            yield f"{name} was changed (its SHA-256 differs)"
    for name in sorted(present.keys() - bundle.files.keys()):
        # macOS adds its own files to every folder that its Finder shows or packs.
        if not PurePosixPath(name).name.startswith((".DS_Store", "._")):
            yield f"{name} is not listed in {DESCRIPTION}, so it is no part of this bundle"


def _wrong_sources(bundle: Bundle, directory: Path) -> Iterator[str]:
    for code, sources in bundle.sources.items():
        try:
            version = sources.code_version(directory)
        except OSError:
            continue  # reported as missing
        if version != code:
            yield f"the sources have the code version {version}, not {code}"


def _wrong_tables(
    bundle: Bundle, directory: Path, present: Mapping[str, str], texts: Mapping[str, str]
) -> Iterator[str]:
    """Yield the tables, other than those whose SHA-256 differs, that do not have these texts.

    present: SHA-256 by path.
    """
    for file, text in texts.items():
        name = f"{TABLES}/{file}"
        if name not in present:
            if name not in bundle.files:
                yield f"{name} is missing"
            continue
        if present[name] != bundle.files.get(name, present[name]):
            continue
        lines = (directory / name).read_text(encoding="utf-8", errors="replace").splitlines()
        pairs = zip_longest(lines, text.splitlines(), fillvalue="")
        for number, (line, expected) in enumerate(pairs, start=1):
            if line != expected:
                yield f"{name}: line {number} is {line!r}, but the counts give {expected!r}"
                break


def _compare(
    recorded: list[dict[str, Any]], recomputed: list[dict[str, Any]]
) -> tuple[int, list[str]]:
    """Compare two tables; return the number of compared values and the differences."""
    if len(recorded) != len(recomputed):
        return 0, [f"the table has {len(recorded)} lines, but the counts give {len(recomputed)}"]
    cells, problems = 0, []
    for expected, line in zip(recorded, recomputed, strict=True):
        for column in dict.fromkeys([*expected, *line]):
            if column in _TEXTS:
                continue
            cells += 1
            before, after = expected.get(column), line.get(column)
            if not _equal(before, after):
                problems.append(
                    f"{expected.get('label')}: {column} is {before!r} in the table, but the counts "
                    f"give {after!r}"
                )
    return cells, problems


def _equal(first: object, second: object) -> bool:
    if isinstance(first, float) and isinstance(second, float | int):
        if math.isnan(first):
            return math.isnan(second)
        return math.isclose(first, second, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return first == second


def _notes(bundle: Bundle, study: Study, unmeasured: Sequence[str]) -> tuple[str, ...]:
    notes = []
    other = sorted(name for name, run in bundle.runs.items() if run.code not in bundle.sources)
    if other:
        notes.append(
            f"{counted(len(other), 'trial')} trained by another code version than the bundled "
            f"sources: {'; '.join(other[:3])}{'; ...' if len(other) > 3 else ''}"
        )
    if unmeasured:
        notes.append(
            f"not recomputed: {', '.join(unmeasured)}, because not every run has sums by image of "
            "these metrics"
        )
    missing = [trial.name for trial in study.trials if trial.name not in bundle.runs]
    if missing:
        notes.append(f"{counted(len(missing), 'trial')} without a run: {'; '.join(missing)}")
    return tuple(notes)
