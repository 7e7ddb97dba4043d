"""The outcome of a search that samples: the best sample of each row, as a table and as a file."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.report.rows.row import Row
from orchestrator.report.rows.scores import Score, find_score
from orchestrator.report.tables.cells import (
    EMPTY,
    axis_text,
    hours_text,
    mean_and_deviation,
    number,
)
from orchestrator.report.tables.columns import Column, sample_columns
from orchestrator.report.tables.table import Table
from orchestrator.study.search_result import FoundSample, SearchResult
from orchestrator.study.study import Study
from orchestrator.study.trial_state import TrialState
from pipelines.data.split_names import general_name


@dataclass(frozen=True)
class TunedRow:
    """The samples of one row of the table in one cell of the grid.

    best: the sample with the best mean score over all of its seeds; None if there is none yet.
    scores: mean score of each sample whose seeds all have one, by its number.
    """

    samples: tuple[Row, ...]
    best: Row | None
    scores: dict[int, float]

    @property
    def tried(self) -> int:
        """The number of samples that need no more training: finished, failed or stopped early."""
        ended = (TrialState.FINISHED, TrialState.STALE, TrialState.FAILED, TrialState.STOPPED_EARLY)
        return sum(all(r.state in ended for r in row.results) for row in self.samples)

    @property
    def hours(self) -> float | None:
        """Hours of training, summed over all samples and seeds; samples with the same values share
        their trainings, which count once."""
        runs = [result.run for row in self.samples for result in row.results]
        hours = {run.run_id: run.hours for run in runs if run is not None and run.hours is not None}
        return sum(hours.values()) if hours else None


def objective(study: Study, rows: Sequence[Row]) -> Score:
    """Return the score by which samples are compared."""
    assert study.config.sampling is not None
    score = find_score(study.config, rows, study.config.sampling.metric)
    assert score is not None, "`metric_checks` reports unknown metrics"
    return score


def tuned_rows(study: Study, rows: Sequence[Row]) -> list[TunedRow]:
    """Return the samples of each row and grid cell, in the order of the study file."""
    score = objective(study, rows)
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.variant, *row.grid_cell), []).append(row)
    return [_tuned(group, score) for group in groups.values()]


def best_rows(study: Study, rows: Sequence[Row]) -> list[Row]:
    """Return the rows without all but the best samples; all rows if the study does not sample."""
    if study.config.sampling is None:
        return list(rows)
    return [each.best for each in tuned_rows(study, rows) if each.best is not None]


def _tuned(rows: Sequence[Row], score: Score) -> TunedRow:
    scores = {}
    for row in rows:
        values = score.values(row)
        if row.sample is not None and values and len(values) == len(row.results):
            scores[row.sample.number] = statistics.fmean(values.values())
    choose = max if score.higher_is_better else min
    best = choose(scores, key=lambda n: scores[n], default=None)
    chosen = next((r for r in rows if r.sample is not None and r.sample.number == best), None)
    return TunedRow(tuple(rows), chosen, scores)


def best_table(study: Study, rows: Sequence[Row]) -> Table:
    """Return the table of the best sample of each row: its score and values, and the scores of all
    samples of the row."""
    score, tuned = objective(study, rows), tuned_rows(study, rows)
    firsts = [each.samples[0] for each in tuned]
    columns = [Column("variant", tuple(r.label for r in firsts), numeric=False, key="variant")]
    for axis in study.config.grid:
        values = tuple(axis_text(row.axes[axis]) for row in firsts)
        columns.append(Column(axis.split(".")[-1], values, numeric=False, key=axis))
    digits = 1 if score.factor == 100 else 3
    best = [
        mean_and_deviation(list(score.values(each.best).values()), digits) if each.best else EMPTY
        for each in tuned
    ]
    columns.append(Column(f"best {score.name}", tuple(best), key=score.key))
    columns += sample_columns(study.config, [each.best for each in tuned])
    medians = [statistics.median(each.scores.values()) if each.scores else None for each in tuned]
    columns += [
        Column(f"median {score.name}", tuple(number(m, digits) for m in medians), drop_rank=2),
        Column("samples", tuple(_samples_text(study, each) for each in tuned), drop_rank=1),
        Column("hours, all samples", tuple(hours_text(each.hours) for each in tuned), drop_rank=3),
    ]
    return Table(tuple(columns), name="best")


def _samples_text(study: Study, tuned: TunedRow) -> str:
    """Return the number of samples with a score, and of how many, with the early stops."""
    assert study.config.sampling is not None
    text = f"{len(tuned.scores)} of {study.config.sampling.count}"
    stopped = sum(
        any(r.state is TrialState.STOPPED_EARLY for r in row.results) for row in tuned.samples
    )
    return f"{text}, {stopped} stopped early" if stopped else text


def search_result(study: Study, rows: Sequence[Row]) -> SearchResult | None:
    """Return the content of the file that tables take by `from_search`; None while no row has a
    best sample, or if the study does not sample."""
    config, sampling = study.config, study.config.sampling
    if sampling is None:
        return None
    tuned = [each for each in tuned_rows(study, rows) if each.best is not None]
    if not tuned:
        return None
    found = []
    for each in tuned:
        assert each.best is not None
        assert each.best.sample is not None
        sample = each.best.sample
        found.append(
            FoundSample(
                variant=each.best.variant,
                set=each.best.results[0].trial.own,
                axes=each.best.axes,
                values=sample.values,
                sample=sample.number,
                score=round(each.scores[sample.number], 4),
                tried=each.tried,
            )
        )
    splits = {row.results[0].trial.experiment.data.validation_split for row in rows}
    return SearchResult(
        search=config.study,
        method=sampling.method,
        samples=sampling.count,
        metric=sampling.metric,
        split=", ".join(sorted(general_name(split) for split in splits if split is not None)),
        seeds=config.seeds,
        folds=config.fold_count,
        base=study.base,
        ranges=config.sample,
        rows=tuple(found),
    )
