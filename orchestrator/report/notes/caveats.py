"""Warnings: why rows of a table must not be compared, or scores are unreliable."""

import math
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from orchestrator.report.notes.comparability import different_scoring, different_training
from orchestrator.report.rows.comparisons import family_size
from orchestrator.report.rows.row import Row, expected_difference, group_rows, row_names
from orchestrator.report.statistics.power import seeds_warning
from orchestrator.report.statistics.resampled import ResampledCounts
from orchestrator.report.tables.cells import INCOMPARABLE, STALE
from orchestrator.report.tables.columns import row_label
from orchestrator.report.tables.latency import latency_caveats
from orchestrator.study.search_checks import tuning_lines
from orchestrator.study.study import Study
from pipelines.data.split_names import general_name, splits_overlap
from pipelines.wording import counted, first_names

_LISTED = 3  # classes in a warning, and sets of them


def caveats(study: Study, rows: Sequence[Row], planned: Sequence[Row] = ()) -> Iterable[str]:
    """Yield one warning per line, the most serious first. planned: all rows of the study, if `rows`
    are a part of them."""
    for (compared_to, reason), those in group_rows(
        ((row.compared_to, row.incomparable), row) for row in rows
    ).items():
        if reason:
            yield (
                f"{INCOMPARABLE} {row_names(those, rows)} cannot be compared with "
                f"{row_label(study.config, compared_to)} ({reason}); no difference is shown."
            )
    yield from _without_difference(study, rows, planned)
    yield from _missing_counts(rows)
    yield from _uncertain_runs(rows)
    yield from _equal_trainings(rows)
    yield from different_scoring(study, rows)
    yield from different_training(rows)
    stale = [row for row in rows if row.stale]
    if stale:
        yield (
            f"{STALE} Trained with another version of the code than the one installed now: "
            f"{row_names(stale, rows)}."
        )
    overlapping = group_rows((_overlapping_splits(study, row), row) for row in rows)
    for splits, those in overlapping.items():
        if splits is not None:
            validation, train = splits
            yield (
                f"Scored on images the model was trained on (trained on {train}, scored on "
                f"{validation}); this is not a test score: {row_names(those, rows)}."
            )
    yield from latency_caveats(study.config, rows)
    yield from _data_warnings(rows)
    yield from _tuning(study, rows)
    yield from _added_seeds(planned or rows)
    yield from _degenerate_classes(rows)
    yield from seed_caveats(study, rows, planned)


def seed_caveats(study: Study, rows: Sequence[Row], planned: Sequence[Row] = ()) -> Iterable[str]:
    """Yield a warning if the study has too few seeds to detect the expected difference; none once
    their spread has been measured, because the smallest detectable difference replaces it. How much
    differences vary over folds is not assumed. planned: see `caveats`."""
    if study.config.folds is not None:
        return
    if study.config.kind != "table" or not any(row.compared_to for row in rows):
        return
    if any(row.difference is not None and row.difference.p is not None for row in rows):
        return
    difference, source = expected_difference(study, rows)
    if difference:
        planned = planned or rows
        in_cell = max(Counter(row.grid_cell for row in planned).values())
        seeds = len(study.config.seeds)
        warning = seeds_warning(seeds, difference, source, in_cell, family_size(planned))
        if warning:
            yield warning


def _without_difference(study: Study, rows: Sequence[Row], planned: Sequence[Row]) -> Iterable[str]:
    """Yield why rows with a score have no difference although they may be compared."""
    if study.config.kind != "table":
        return
    by_place = {(row.variant, row.grid_cell): row for row in (*rows, *planned)}
    scored = [row for row in rows if row.compared_to and row.miou]
    unscored: dict[str, list[Row]] = {}
    apart: dict[str, list[Row]] = {}
    for row in scored:
        other = by_place.get((row.compared_to, row.grid_cell))
        if other is None or row.incomparable:
            continue
        if not other.miou:
            unscored.setdefault(row.compared_to, []).append(row)
        elif not row.miou.keys() & other.miou.keys():
            apart.setdefault(row.compared_to, []).append(row)
    for compared_to, those in unscored.items():
        label = row_label(study.config, compared_to)
        if len(those) == len(scored):
            yield f"No differences: {label}, which rows are compared to, has no score."
        else:
            yield (
                f"No difference for {row_names(those, rows)}: {label} has no score to compare with."
            )
    for compared_to, those in apart.items():
        what = "seed" if study.config.fold_count is None else "seed and fold"
        yield (
            f"No difference for {row_names(those, rows)}: no {what} has a score in both the row "
            f"and {row_label(study.config, compared_to)}."
        )


def _added_seeds(rows: Sequence[Row]) -> Iterable[str]:
    """Yield a warning if trials of some seeds were scheduled after those of others had ended."""
    started: dict[int, list[float]] = {}
    ended: dict[int, list[float]] = {}
    for result in (result for row in rows for result in row.finished):
        if result.run is not None and result.run.closed_at is not None:
            seed = result.trial.experiment.seed
            started.setdefault(seed, []).append(result.run.started_at)
            ended.setdefault(seed, []).append(result.run.closed_at)
    # A single trial may have been repeated later, so half of a seed's trials must have ended.
    first_end = min((statistics.median(times) for times in ended.values()), default=math.inf)
    added = [seed for seed, times in started.items() if min(times) > first_end]
    if added and any(row.difference and row.difference.p is not None for row in rows):
        before = len(started) - len(added)
        yield (
            f"Seeds were added after results were available ({before} -> {len(started)}: "
            f"{', '.join(map(str, sorted(added)))}). If they were added because of the results, p "
            "is too small; choose the number of seeds beforehand."
        )


def _tuning(study: Study, rows: Sequence[Row]) -> Iterable[str]:
    """Yield what limits a table with values from a search: seeds that the search used, and rows
    that were not tuned alike."""
    config, result = study.config, study.config.search_result
    if result is None:
        return
    validation = {row.results[0].trial.experiment.data.validation_split for row in rows}
    protocol = config.report.protocol
    scored = {general_name(config.scored_split(protocol, each) or "") for each in validation}
    seeds = {each.trial.experiment.seed for row in rows for each in row.results}
    shared = sorted(seeds & set(result.seeds))
    if shared and result.split in scored:
        plural = "s" if len(shared) > 1 else ""
        yield (
            f"Seed{plural} {', '.join(map(str, shared))} of this table "
            f"{'were' if len(shared) > 1 else 'was'} used by search {result.search!r} on the same "
            f"split ({result.split}): the best of its samples was chosen by these very scores, so "
            "they are optimistic. Train the table with other seeds."
        )
    names = [row_names([row], rows) for row in rows if row.results[0].trial.tuned is None]
    for line in tuning_lines(result, [row.results[0].trial for row in rows], names):
        yield f"{line[0].upper()}{line[1:]}."


def _degenerate_classes(rows: Sequence[Row]) -> Iterable[str]:
    """Yield the classes that no trial predicts correctly, and those that no trial of a row does, by
    data set."""
    by_data = group_rows((row.results[0].trial.experiment.data.dataset, row) for row in rows)
    for those in by_data.values():
        counts = [r.counts for row in those for r in row.finished if r.counts is not None]
        if not counts or any(each.classes != counts[0].classes for each in counts):
            continue
        if any(row.uncounted for row in those):  # nothing is known of these
            continue
        labeled = np.any([each.labeled for each in counts], axis=0)
        never = _zero_classes(counts)
        if never:
            where = f" ({row_names(those, rows)})" if len(by_data) > 1 else ""
            rest = int(labeled.sum()) - len(never)
            consequence = (
                "differences between rows cannot show what was learned"
                if rest < 2
                else f"differences come from the other {rest}"
            )
            yield (
                f"IoU is 0 in every row{where} for: {', '.join(never)}. mIoU is the mean over all "
                f"{int(labeled.sum())} classes in the labels; {consequence}."
            )
        yield from _zero_in_single_rows(those, rows, never)


def _zero_classes(counts: Sequence[ResampledCounts]) -> tuple[str, ...]:
    """Return the classes whose IoU is 0 wherever they have labels."""
    return tuple(
        name
        for index, name in enumerate(counts[0].classes if counts else ())
        # With folds, a class may lack labels in some of them.
        if (iou := [each.iou[index] for each in counts if each.labeled[index]]) and not any(iou)
    )


def _zero_in_single_rows(
    those: Sequence[Row], rows: Sequence[Row], never: Collection[str]
) -> Iterable[str]:
    """Yield which of `those` rows have an IoU of 0 in every trial for classes that other rows
    predict, the best row first. never: the classes that no row predicts."""
    best_first = sorted(
        (row for row in those if row.miou),
        key=lambda row: statistics.fmean(row.miou.values()),
        reverse=True,
    )
    by_classes: dict[tuple[str, ...], list[Row]] = {}
    for row in best_first:
        zero = _zero_classes([r.counts for r in row.finished if r.counts is not None])
        if classes := tuple(name for name in zero if name not in never):
            by_classes.setdefault(classes, []).append(row)
    parts = [
        f"in every trial of {row_names(some, rows)} for {first_names(classes, _LISTED)}"
        for classes, some in by_classes.items()
    ]
    if parts:
        others = sum(len(some) for some in [*by_classes.values()][_LISTED:])
        more = f"; in {counted(others, 'more row')} for other classes" if others else ""
        yield f"IoU is 0 {'; '.join(parts[:_LISTED])}{more}. Other rows are above 0 there."


def _missing_counts(rows: Sequence[Row]) -> Iterable[str]:
    """Yield the trials with a score whose counts are missing."""
    missing = [result for row in rows for result in row.uncounted]
    if missing:
        names = first_names([repr(result.trial.name) for result in missing], _LISTED)
        runs = [r.run.run_id for r in missing if r.run is not None]
        yield (
            f"The per-image pixel counts (counts.arrow) of {counted(len(missing), 'trial')} are "
            f"missing, unreadable or of another score than the recorded one: {names} "
            f"(run{'s' * (len(runs) > 1)} {first_names(runs, _LISTED)}). Without them, differences "
            "of these trials' rows have no interval and no p; restore the files."
        )


def _uncertain_runs(rows: Sequence[Row]) -> Iterable[str]:
    """Yield the trials whose run could not be matched with certainty."""
    trials: dict[str, list[str]] = {}
    for result in (result for row in rows for result in row.results if result.uncertainty):
        trials.setdefault(result.uncertainty, []).append(result.trial.name)
    for reason, names in trials.items():
        yield (
            f"It could not be verified that these scores belong to these runs ({reason}): "
            f"{'; '.join(names)}."
        )


def _equal_trainings(rows: Sequence[Row]) -> Iterable[str]:
    """Yield different trainings with exactly equal loss and mIoU, which does not happen by
    chance."""
    ends: dict[tuple[float, float | None], dict[str, str]] = {}
    for result in (result for row in rows for result in row.finished):
        if result.run is not None and "train/loss" in result.run.metrics:
            end = result.run.metrics["train/loss"], result.run.metrics.get("val/miou")
            ends.setdefault(end, {})[result.run.run_id] = result.trial.name
    for names in ends.values():
        if len(names) > 1:
            yield (
                f"These trials have exactly the same loss and mIoU although their settings differ: "
                f"{'; '.join(names.values())}. Either the settings have no effect, or a score is "
                "recorded for the wrong run."
            )


def _data_warnings(rows: Sequence[Row]) -> Iterable[str]:
    """Yield what limits the scores on the data that the rows were trained and scored on."""
    warned: dict[str, list[Row]] = {}
    for row in rows:
        runs = [result.run for result in row.finished if result.run is not None]
        for line in dict.fromkeys(line for run in runs for line in run.data_warnings):
            warned.setdefault(line, []).append(row)
    for line, those in warned.items():
        yield f"Data: {line} ({row_names(those, rows)})."


def _overlapping_splits(study: Study, row: Row) -> tuple[str, str] | None:
    """Return the splits that a row is scored and trained on if they share images, else None."""
    data = row.results[0].trial.experiment.data
    scored = study.config.scored_split(study.config.report.protocol, data.validation_split)
    if scored is None or not splits_overlap(scored, data.trained_on):
        return None
    return general_name(scored), general_name(data.trained_on)
