"""Warnings: why rows of a table must not be compared, or scores are unreliable."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from orchestrator.report.power import seeds_warning
from orchestrator.report.rows import Row, expected_difference, pooled_deviation
from orchestrator.report.table import INCOMPARABLE, MIXED, STALE, is_mixed
from orchestrator.study.study import Study
from pipelines.data.dataset import split_parts

Key = TypeVar("Key")


def caveats(study: Study, rows: Sequence[Row]) -> Iterable[str]:
    """Yield one warning per line, the most serious first."""
    for reason, those in _grouped((row.incomparable, row) for row in rows).items():
        if reason:
            yield (
                f"{INCOMPARABLE} Not comparable with {study.config.compare_to}, {reason}: "
                f"{row_names(those, rows)}. No difference is reported."
            )
    yield from _uncertain_runs(rows)
    yield from _equal_trainings(rows)
    yield from _different_scoring(study, rows)
    yield from _different_training(rows)
    stale = [row for row in rows if row.stale]
    if stale:
        yield (
            f"{STALE} Trained with a different code version than the current one: "
            f"{row_names(stale, rows)}."
        )
    overlapping = _grouped((_overlapping_splits(row), row) for row in rows)
    for splits, those in overlapping.items():
        if splits is not None:
            validation, train = splits
            yield (
                "Scored, at least in part, on training images (scored on "
                f"{validation}, trained on {train}): {row_names(those, rows)}."
            )
    yield from _data_warnings(rows)
    yield from seed_caveats(study, rows)


def seed_caveats(study: Study, rows: Sequence[Row]) -> Iterable[str]:
    """Yield a warning if the study has too few seeds to detect the expected difference."""
    difference = expected_difference(study, rows)
    if study.config.compare_to and study.config.kind == "table" and difference:
        warning = seeds_warning(len(study.config.seeds), difference, pooled_deviation(rows))
        if warning:
            yield warning


def row_names(some: Sequence[Row], rows: Sequence[Row]) -> str:
    """Return the labels of `some` of the rows, with their grid cells unless all cells of a variant
    are included; `all rows` if all are."""
    if len(some) == len(rows) > 1:
        return "all rows"
    grid_cells: dict[str, list[str]] = {}
    for row in some:
        grid_cells.setdefault(row.label, []).append(" ".join(row.grid_cell))
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
        yield f"Run could not be matched with certainty ({reason}): {'; '.join(names)}."


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
                "Different trainings have exactly equal loss and mIoU: "
                f"{'; '.join(names.values())}. Either the settings in which they differ have no "
                "effect, or a score is recorded for the wrong trial."
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
    splits = _grouped(
        (each.data.validation_split, row)
        for each, row in experiments
        if each.data.validation_split is not None
    )
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
            f"Scored under {name} with a different code version than the current one: "
            f"{row_names(stale, rows)}."
        )


def _different_training(rows: Sequence[Row]) -> Iterable[str]:
    """Yield rows that differ, or whose seeds differ, in code, precision or the content of data."""
    mixed = [row for row in rows if is_mixed(row)]
    if mixed:
        yield (
            f"{MIXED} Seeds of one row differ in data, code or precision; their mean is not "
            f"meaningful: {row_names(mixed, rows)}."
        )
    mixed_differences = [row for row in rows if row.mixed_difference]
    if mixed_differences:
        yield (
            f"{MIXED} The difference pairs trainings with different code versions or precisions, "
            f"so it is not due to the rows alone: {row_names(mixed_differences, rows)}."
        )
    names = {"code": "code versions", "precision": "precisions"}
    for attribute, name in names.items():
        values = sorted(set().union(*(row.run_values(attribute) for row in rows)))
        if len(values) > 1:
            listed = ", ".join(values)
            yield f"Rows were trained with different {name} ({listed}); compare with care."
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


def _overlapping_splits(row: Row) -> tuple[str, str] | None:
    """Return the splits that a row is scored and trained on if they share images, else None."""
    data = row.results[0].trial.experiment.data
    validation, train = data.validation_split, data.train_split
    if validation is None or not set(split_parts(validation)) & set(split_parts(train)):
        return None
    return validation, train
