"""Warnings: why rows of a table must not be compared, or scores are unreliable."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TypeVar

import numpy as np

from orchestrator.report.cells import INCOMPARABLE, MIXED, STALE, is_mixed
from orchestrator.report.columns import row_label
from orchestrator.report.comparisons import family_size
from orchestrator.report.latency import latency_caveats
from orchestrator.report.power import seeds_warning
from orchestrator.report.rows import Row, expected_difference
from orchestrator.study.search_checks import found_sample, unequal_lines, untuned_lines
from orchestrator.study.study import Study
from pipelines.data.split_names import general_name, splits_overlap

Key = TypeVar("Key")


def caveats(study: Study, rows: Sequence[Row], planned: Sequence[Row] = ()) -> Iterable[str]:
    """Yield one warning per line, the most serious first. planned: all rows of the study, if `rows`
    are a part of them."""
    for (compared_to, reason), those in _grouped(
        ((row.compared_to, row.incomparable), row) for row in rows
    ).items():
        if reason:
            yield (
                f"{INCOMPARABLE} {row_names(those, rows)} cannot be compared with "
                f"{row_label(study.config, compared_to)} ({reason}); no difference is shown."
            )
    yield from _without_difference(study, rows, planned)
    yield from _uncertain_runs(rows)
    yield from _equal_trainings(rows)
    yield from _different_scoring(study, rows)
    yield from _different_training(rows)
    stale = [row for row in rows if row.stale]
    if stale:
        yield (
            f"{STALE} Trained with another version of the code than the one installed now: "
            f"{row_names(stale, rows)}."
        )
    overlapping = _grouped((_overlapping_splits(study, row), row) for row in rows)
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
    yield from _added_seeds(rows)
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
    names = [
        row_names([row], rows)
        for row in rows
        if found_sample(result, row.variant, asdict(row.results[0].trial.experiment)) is None
    ]
    for line in (*untuned_lines(result, names), *unequal_lines(result, config.variants)):
        yield f"{line[0].upper()}{line[1:]}."


def _degenerate_classes(rows: Sequence[Row]) -> Iterable[str]:
    """Yield the classes that no trial ever predicts correctly, by data set."""
    by_data = _grouped((row.results[0].trial.experiment.data.dataset, row) for row in rows)
    for those in by_data.values():
        counts = [r.counts for row in those for r in row.finished if r.counts is not None]
        if not counts or any(each.classes != counts[0].classes for each in counts):
            continue
        classes = counts[0].classes
        labeled = np.any([each.labeled for each in counts], axis=0)
        never = [
            name
            for index, name in enumerate(classes)
            # With folds, a class may lack labels in some of them.
            if labeled[index]
            and all(each.iou[index] == 0 for each in counts if each.labeled[index])
        ]
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


def row_names(some: Sequence[Row], rows: Sequence[Row]) -> str:
    """Return the labels of `some` of the rows, with their grid cells and samples unless all of a
    variant are included; `all rows` if all are."""
    if len(some) == len(rows) > 1:
        return "all rows"
    grid_cells: dict[str, list[str]] = {}
    for row in some:
        sample = () if row.sample is None else (f"sample {row.sample.number}",)
        grid_cells.setdefault(row.label, []).append(" ".join((*row.grid_cell, *sample)))
    labels = [row.label for row in rows]
    return ", ".join(
        label if labels.count(label) == len(cells) else f"{label} ({', '.join(cells)})"
        for label, cells in grid_cells.items()
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


def _different_scoring(study: Study, rows: Sequence[Row]) -> Iterable[str]:
    """Yield rows that differ in protocol or split, or were scored with a different code version."""
    experiments = [(row.results[0].trial.experiment, row) for row in rows]
    name = study.config.report.protocol
    protocols = _grouped((each.evaluation.protocol, row) for each, row in experiments)
    scored = [
        (study.config.scored_split(name, each.data.validation_split), row)
        for each, row in experiments
    ]
    splits = _grouped((general_name(split), row) for split, row in scored if split is not None)
    for groups, description in (
        (protocols if name is None else {}, "under different protocols"),
        (splits, "on different splits"),
    ):
        if len(groups) > 1:
            listed = "; ".join(f"{key}: {row_names(those, rows)}" for key, those in groups.items())
            yield f"Rows are scored {description} ({listed})."
    stale = [row for row in rows if any(result.scored_stale for result in row.results)]
    if stale:
        yield (
            f"Scored under {name} with another version of the code than the one installed now: "
            f"{row_names(stale, rows)}."
        )


def _different_training(rows: Sequence[Row]) -> Iterable[str]:
    """Yield rows that differ, or whose seeds differ, in code, precision or the content of data."""
    mixed = [row for row in rows if is_mixed(row)]
    if mixed:
        yield (
            f"{MIXED} Seeds of {row_names(mixed, rows)} differ in data version, code version or "
            "precision; the mean mixes unlike runs."
        )
    mixed_differences = [row for row in rows if row.mixed_difference]
    if mixed_differences:
        yield (
            f"{MIXED} The difference for {row_names(mixed_differences, rows)} compares runs with "
            "different code versions or precisions; it may not be due to the row."
        )
    used = {
        "code versions": set().union(*(row.code_versions for row in rows)),
        "precisions": set().union(*(row.run_values("precision") for row in rows)),
    }
    for name, values in used.items():
        if len(values) > 1:
            yield (
                f"Rows were trained with different {name} ({', '.join(sorted(values))}); "
                "differences may come from that."
            )
    workers = sorted(set().union(*(row.run_values("workers") for row in rows)) - {""})
    if len(workers) > 1:
        yield (
            f"Trials were trained by different numbers of workers ({', '.join(workers)}). Their "
            "steps are the same up to rounding, but over a whole training rounding changes a score "
            "about as much as another seed does."
        )
    versions: dict[str, set[str]] = {}
    for row in rows:
        for result in row.finished:
            if result.run is not None:
                dataset = result.trial.experiment.data.dataset
                versions.setdefault(dataset, set()).add(result.run.data)
    for dataset, fingerprints in versions.items():
        if len(fingerprints) > 1:
            listed = ", ".join(sorted(each[:12] for each in fingerprints))
            yield f"Rows were trained on different versions of {dataset} (fingerprints {listed})."


def _grouped(pairs: Iterable[tuple[Key, Row]]) -> dict[Key, list[Row]]:
    groups: dict[Key, list[Row]] = {}
    for key, row in pairs:
        groups.setdefault(key, []).append(row)
    return groups


def _overlapping_splits(study: Study, row: Row) -> tuple[str, str] | None:
    """Return the splits that a row is scored and trained on if they share images, else None."""
    data = row.results[0].trial.experiment.data
    scored = study.config.scored_split(study.config.report.protocol, data.validation_split)
    if scored is None or not splits_overlap(scored, data.trained_on):
        return None
    return general_name(scored), general_name(data.trained_on)
