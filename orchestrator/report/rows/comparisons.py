"""Compares the rows of a study: differences, their p values, and means over the grid's cells.

A row is compared with the row of its `compare_to` in the same grid cell. All comparisons of the
study are one family, of which Holm's method adjusts the p values, whatever part of it is shown.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from orchestrator.report.rows.row import CURRENT, Row
from orchestrator.report.rows.scores import Score, find_score
from orchestrator.report.statistics.bootstrap import Sampling
from orchestrator.report.statistics.resampled import ResampledCounts
from orchestrator.report.statistics.seed_spread import SeedError, fold_error, seed_error
from orchestrator.report.statistics.significance import (
    Difference,
    Pairs,
    compare,
    compare_means,
    holm,
)
from orchestrator.study.repetition import Repetition, fold_of, seed_of
from orchestrator.study.study import Study

_MIOU = Score("miou", "mIoU", "", 100.0)


@dataclass(frozen=True)
class OverallDifference:
    """The difference of two variants over all cells of the grid.

    by_cell: the difference in each cell. difference: its mean over the cells.
    interaction_p: p value of an equal difference in all cells, adjusted by Holm's method for the
        other rows' interactions; None if it cannot be tested.
    """

    variant: str
    label: str
    compared_to: str
    by_cell: Mapping[tuple[str, ...], float]
    difference: Difference
    interaction_p: float | None = None


@dataclass(frozen=True)
class Comparisons:
    """The rows with their differences, and the differences over all cells of the grid."""

    rows: list[Row]
    overall: list[OverallDifference]


def compare_rows(study: Study, rows: Sequence[Row]) -> Comparisons:
    """Return the rows with their differences. rows: of the whole study."""
    # The trials of a search may be stopped early, so their scores are not compared.
    if study.config.kind != "table":
        return Comparisons(list(rows), [])
    found = [find_score(study.config, rows, key) for key in study.config.report.differences]
    scores = [score for score in found if score is not None]
    by_place = {(row.variant, row.grid_cell): row for row in rows}
    compared = []
    pairs: dict[str, dict[tuple[str, ...], Pairs]] = {}
    for row in rows:
        compared_to = by_place.get((row.compared_to, row.grid_cell))
        if compared_to is None:
            compared.append(row)
            continue
        row = replace(row, incomparable=why_incomparable(study, row, compared_to))
        # Two variants that share a run are the same training, so there is nothing to compare.
        seeds = [
            each
            for each in study.config.repetitions
            if each in row.miou and each in compared_to.miou
        ]
        if not row.incomparable and seeds and not _run_ids(row) & _run_ids(compared_to):
            pooled = _comparable_rows(study, rows, compared_to)
            folds = study.config.fold_count
            pair = _pairs(row, compared_to, pooled, _MIOU, folds)
            assert pair is not None, "both rows have a score of the shared seeds"
            pairs.setdefault(row.variant, {})[row.grid_cell] = pair
            by_metric = {
                score.key: _pairs(row, compared_to, pooled, score, folds) for score in scores
            }
            row = replace(
                row,
                difference=compare(row.compared_to, pair),
                differences={
                    k: compare(row.compared_to, each) for k, each in by_metric.items() if each
                },
                mixed_difference=_is_mixed(row, compared_to, seeds),
            )
        compared.append(row)
    overall = _overall(compared, pairs)
    return _adjusted(compared, overall)


def _adjusted(rows: Sequence[Row], overall: Sequence[OverallDifference]) -> Comparisons:
    """Adjust all p values of the study as one family, and those of the interactions as another.

    Planned comparisons without a p value, for example because a trial is missing, count as members.
    """
    differences = [row.difference for row in rows] + [each.difference for each in overall]
    p_values = [None if each is None else each.p for each in differences]
    members = family_size(rows)
    missing = members - sum(p is not None for p in p_values)
    corrected = holm([*p_values, *[1.0] * missing])
    adjusted = [
        None if each is None else replace(each, p_adjusted=p, comparisons=max(1, members))
        for each, p in zip(differences, corrected, strict=False)
    ]
    interactions = holm([each.interaction_p for each in overall])
    return Comparisons(
        [replace(row, difference=each) for row, each in zip(rows, adjusted, strict=False)],
        [
            replace(each, difference=difference, interaction_p=p)
            for each, difference, p in zip(
                overall, adjusted[len(rows) :], interactions, strict=True
            )
            if difference is not None
        ],
    )


def family_size(rows: Sequence[Row]) -> int:
    """Return the number of planned comparisons: one for each row that is compared, and in a grid
    one for each variant, over all cells. rows: of the whole study."""
    variants = [row.variant for row in rows if row.compared_to and not row.incomparable]
    several_cells = len({row.grid_cell for row in rows}) > 1
    return len(variants) + (len(set(variants)) if several_cells else 0)


def _overall(
    rows: Sequence[Row], pairs: Mapping[str, Mapping[tuple[str, ...], Pairs]]
) -> list[OverallDifference]:
    """Return the differences over all cells of the variants that are compared in each cell."""
    cells = {row.grid_cell for row in rows}
    overall = []
    for variant, by_cell in pairs.items():
        tested = [pair for pair in by_cell.values() if pair.tested]
        if len(cells) < 2 or len(tested) < len(cells):
            continue
        row = next(row for row in rows if row.variant == variant)
        overall.append(
            OverallDifference(
                variant,
                row.label,
                row.compared_to,
                {cell: pair.mean for cell, pair in by_cell.items()},
                compare_means(row.compared_to, tested, _shares_trainings(rows, variant)),
                interaction_p(tested),
            )
        )
    return overall


def _shares_trainings(rows: Sequence[Row], variant: str) -> bool:
    """Whether the trainings of a variant in some cells of the grid differ only in how they are
    scored."""
    experiments = [row.results[0].trial.experiment for row in rows if row.variant == variant]
    trainings = []
    for experiment in experiments:
        described = experiment.as_dict()
        del described["evaluation"]
        described["data"].pop("validation_split", None)
        trainings.append(repr(described))
    return len(set(trainings)) < len(trainings)


def interaction_p(pairs: Sequence[Pairs]) -> float | None:
    """Return the p value of equal differences in all cells (Wald's F test, with the least of the
    cells' degrees of freedom); None if nothing varies.

    Seeds of different cells are different trainings; images may be the same in all.
    """
    errors = [pair.error for pair in pairs if pair.error is not None]
    means = np.array([pair.mean for pair in pairs])
    centers = np.stack([pair.centers() for pair in pairs])
    covariance = np.cov(centers) + np.diag([error.standard_error**2 for error in errors])
    contrast = np.diff(np.eye(len(pairs)), axis=0)
    variance = contrast @ covariance @ contrast.T
    if np.linalg.matrix_rank(variance) < len(variance):
        return None
    differences = contrast @ means
    degrees = len(differences)
    statistic = float(differences @ np.linalg.solve(variance, differences)) / degrees
    freedom = min(error.freedom for error in errors)
    return float(special.fdtrc(degrees, freedom, statistic))


def _pairs(
    row: Row, compared_to: Row, pooled: Sequence[Row], score: Score, folds: int | None
) -> Pairs | None:
    """Return the paired differences of a row over the seeds (and folds) that both have a score of;
    None if there are none. pooled: the rows that share a pooled spread. folds: number of folds of
    the study, if any."""
    own, other = _values(row, score), _values(compared_to, score)
    seeds = sorted(own.keys() & other.keys(), key=_order)
    if not seeds:
        return None
    ours, theirs = _resampled(row, score), _resampled(compared_to, score)
    by_seed = {seed: own[seed] - other[seed] for seed in seeds}
    replicates: NDArray[np.float64] | None = None
    sampling: Sampling | None = None
    separate_images = False
    if all(seed in ours and seed in theirs for seed in seeds):
        # Trainings of one fold share their images; folds may have the same images or others.
        by_fold: dict[int | None, list[ResampledCounts]] = {}
        for seed in seeds:
            pair = ours[seed].counts, theirs[seed].counts
            by_fold.setdefault(fold_of(seed), []).extend(pair)
        if all(_same_images(counts) for counts in by_fold.values()):
            by_seed = {seed: ours[seed].labeled - theirs[seed].labeled for seed in seeds}
            replicates = np.stack([ours[s].replicates - theirs[s].replicates for s in seeds])
            counts = [each[0] for each in by_fold.values()]
            separate_images = not _same_images(counts)
            sampling = counts[0].sampling
    error = _seed_error(row, compared_to, by_seed, pooled, score, folds)
    return Pairs(by_seed, replicates, sampling, error, folds, separate_images)


def _seed_error(
    row: Row,
    compared_to: Row,
    by_seed: Mapping[Repetition, float],
    pooled: Sequence[Row],
    score: Score,
    folds: int | None,
) -> SeedError | None:
    # Another variant may be the same training as one of the two.
    compared = _run_ids(row) | _run_ids(compared_to)
    pooled_rows = [_labeled(each, score) for each in pooled if not _run_ids(each) & compared]
    sides = _labeled(row, score), _labeled(compared_to, score)
    if folds is not None:
        return fold_error(*sides, pooled_rows, by_seed, folds)
    return seed_error(*sides, pooled_rows, list(by_seed.values()))


def _order(repetition: Repetition) -> tuple[int, int]:
    return seed_of(repetition), fold_of(repetition) or 0


def _comparable_rows(study: Study, rows: Sequence[Row], compared_to: Row) -> list[Row]:
    """Return the rows of the grid cell of `compared_to` that may be compared with it and are
    different trainings."""
    pooled: list[Row] = []
    used: set[str] = set()
    for row in rows:
        if row.grid_cell != compared_to.grid_cell or _run_ids(row) & used:
            continue
        if row is compared_to or (row.miou and not why_incomparable(study, row, compared_to)):
            pooled.append(row)
            used |= _run_ids(row)
    return pooled


def _values(row: Row, score: Score) -> dict[Repetition, float]:
    """Return the score of each trial that has one, by seed."""
    return row.miou if score == _MIOU else score.values(row)


@dataclass(frozen=True)
class _Resampled:
    """A score of one trial in the table's units: over the classes in the labels, and of each
    bootstrap replicate, `(replicates,)`."""

    counts: ResampledCounts
    labeled: float
    replicates: NDArray[np.float64]


def _resampled(row: Row, score: Score) -> dict[Repetition, _Resampled]:
    """Return the resampled score of each trial that has one, by seed."""
    resampled = {}
    for result in row.finished:
        counts = result.counts
        if counts is None:
            continue
        labeled, replicates = counts.labeled_miou, counts.resampled
        if score != _MIOU:
            other = counts.metrics.get(score.key)
            if other is None or other.resampled is None:
                continue
            labeled, replicates = other.labeled, other.resampled
        resampled[result.trial.repetition] = _Resampled(
            counts, score.factor * labeled, score.factor * replicates
        )
    return resampled


def _labeled(row: Row, score: Score) -> dict[Repetition, float]:
    """Return a score by seed, over the classes in the labels where statistics are known."""
    known = {seed: each.labeled for seed, each in _resampled(row, score).items()}
    return _values(row, score) | known


def _same_images(counts: Sequence[ResampledCounts]) -> bool:
    first = counts[0]
    return all(
        each.identifiers == first.identifiers and each.classes == first.classes for each in counts
    )


def _run_ids(row: Row) -> set[str]:
    return {result.run.run_id for result in row.results if result.run is not None}


def _is_mixed(row: Row, other: Row, seeds: Iterable[Repetition]) -> bool:
    """Whether the two trainings of some seed differ in code or precision."""
    ours, theirs = (
        {
            result.trial.repetition: (
                result.run.code if result.stale else CURRENT,
                result.run.precision,
            )
            for result in each.results
            if result.run is not None
        }
        for each in (row, other)
    )
    return any(ours[seed] != theirs[seed] for seed in seeds)


def why_incomparable(study: Study, row: Row, other: Row) -> str:
    """Return why the two must not be compared; empty if they may."""
    runs = [
        result.run for each in (row, other) for result in each.finished if result.run is not None
    ]
    experiments = [each.results[0].trial.experiment for each in (row, other)]
    protocols = {experiment.evaluation.protocol for experiment in experiments}
    if study.config.report.protocol is None and len(protocols) > 1:
        return "scored under different protocols"
    protocol = study.config.report.protocol
    splits = {
        study.config.scored_split(protocol, experiment.data.validation_split)
        for experiment in experiments
    }
    if len(splits) > 1:
        return "scored on different splits"
    if len({run.data for run in runs}) > 1:
        return "trained on different versions of the data set"
    return ""
