"""Why figures of a table must not be compared, or show less than was hoped."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from orchestrator.report.power import seeds_warning
from orchestrator.report.rows import Row, expected_difference, pooled_deviation
from orchestrator.report.table import INCOMPARABLE, MIXED, STALE, is_mixed
from orchestrator.study.study import Study
from pipelines.data.dataset import split_parts

Key = TypeVar("Key")


def caveats(study: Study, rows: Sequence[Row]) -> Iterable[str]:
    """A line for each, the gravest first."""
    for reason, those in _grouped((row.incomparable, row) for row in rows).items():
        if reason:
            yield (
                f"{INCOMPARABLE} NOT COMPARABLE with {study.config.compare_to}, {reason}: "
                f"{row_names(those, rows)}. No difference is stated."
            )
    yield from _on_trust(rows)
    yield from _equal_trainings(rows)
    yield from _scorings(study, rows)
    yield from _mixtures(rows)
    stale = [row for row in rows if row.stale]
    if stale:
        yield (
            f"{STALE} Trained by another version of the code than the present one: "
            f"{row_names(stale, rows)}."
        )
    seen = _grouped((_seen_in_training(row), row) for row in rows)
    for splits, those in seen.items():
        if splits is not None:
            validation, train = splits
            yield (
                f"SCORED ON WHAT WAS TRAINED ON, in whole or in part (scored on {validation}, "
                f"trained on {train}): {row_names(those, rows)}."
            )
    yield from seed_caveats(study, rows)


def seed_caveats(study: Study, rows: Sequence[Row]) -> Iterable[str]:
    """A warning where the seeds asked for cannot show the difference that is expected."""
    difference = expected_difference(study, rows)
    if study.config.compare_to and study.config.kind == "table" and difference:
        told = seeds_warning(len(study.config.seeds), difference, pooled_deviation(rows))
        if told:
            yield told


def row_names(some: Sequence[Row], rows: Sequence[Row]) -> str:
    """The names of some of the rows: a variant's label alone where all its cells are among them."""
    if len(some) == len(rows) > 1:
        return "all rows"
    names: dict[str, list[str]] = {}
    for row in some:
        names.setdefault(row.label, []).append(" ".join(row.place))
    cells = [row.label for row in rows]
    return ", ".join(
        label if cells.count(label) == len(places) else f"{label} ({', '.join(places)})"
        for label, places in names.items()
    )


def _on_trust(rows: Sequence[Row]) -> Iterable[str]:
    """Runs that are taken for a trial's although that could not be made sure."""
    assumed: dict[str, list[str]] = {}
    for result in (result for row in rows for result in row.results if result.assumed):
        assumed.setdefault(result.assumed, []).append(result.trial.name)
    for what, names in assumed.items():
        yield f"NOT CERTAIN whose figures these are, {what}: {', '.join(names)}."


def _equal_trainings(rows: Sequence[Row]) -> Iterable[str]:
    """Different trainings whose loss and mIoU are the same to the last bit, which chance never
    makes them."""
    ends: dict[tuple[float, float | None], dict[str, str]] = {}
    for result in (result for row in rows for result in row.finished):
        if result.run is not None and "train/loss" in result.run.metrics:
            end = result.run.metrics["train/loss"], result.run.metrics.get("val/miou")
            ends.setdefault(end, {})[result.run.run_id] = result.trial.name
    for names in ends.values():
        if len(names) > 1:
            yield (
                f"EXACTLY EQUAL loss and mIoU of different trainings: {', '.join(names.values())}. "
                "Either the settings in which they differ have no effect, or a figure stands under "
                "a wrong name."
            )


def _scorings(study: Study, rows: Sequence[Row]) -> Iterable[str]:
    """Rows that were scored in different ways, on different images or with other code."""
    experiments = [(row.results[0].trial.experiment, row) for row in rows]
    name = study.config.report.protocol
    protocols = _grouped((each.evaluation.protocol, row) for each, row in experiments)
    splits = _grouped(
        (each.data.validation_split, row)
        for each, row in experiments
        if each.data.validation_split is not None
    )
    for ways, named in (
        (protocols if name is None else {}, "under DIFFERENT PROTOCOLS"),
        (splits, "on DIFFERENT SPLITS"),
    ):
        if len(ways) > 1:
            told = "; ".join(f"{way}: {row_names(those, rows)}" for way, those in ways.items())
            yield f"Rows are scored {named} ({told})."
    stale = [row for row in rows if any(result.scored_stale for result in row.results)]
    if stale:
        yield (
            f"Scored under {name} by another version of the code than the present one: "
            f"{row_names(stale, rows)}."
        )


def _mixtures(rows: Sequence[Row]) -> Iterable[str]:
    """Rows that differ, or whose seeds differ, in what decides a result beside the experiment."""
    mixed = [row for row in rows if is_mixed(row)]
    if mixed:
        yield (
            f"{MIXED} The seeds of a row MIX data, code or precision: {row_names(mixed, rows)}. "
            "Their mean is of different things."
        )
    unlike = [row for row in rows if row.unlike]
    if unlike:
        yield (
            f"{MIXED} A difference PAIRS trainings by different code or in different precision: "
            f"{row_names(unlike, rows)}. It is not of the rows alone."
        )
    named = {"code": "VERSIONS OF THE CODE", "precision": "PRECISIONS"}
    for what, name in named.items():
        kinds = sorted(set().union(*(row.kinds(what) for row in rows)))
        if len(kinds) > 1:
            told = ", ".join(kinds)
            yield f"Rows were trained with DIFFERENT {name} ({told}): compare with care."
    versions: dict[str, set[str]] = {}
    for row in rows:
        for result in row.finished:
            if result.run is not None:
                dataset = result.trial.experiment.data.dataset
                versions.setdefault(dataset, set()).add(result.run.data)
    for dataset, prints in versions.items():
        if len(prints) > 1:
            told = ", ".join(sorted(each[:12] for each in prints))
            yield f"Rows were trained on DIFFERENT VERSIONS of {dataset} (fingerprints {told})."


def _grouped(pairs: Iterable[tuple[Key, Row]]) -> dict[Key, list[Row]]:
    found: dict[Key, list[Row]] = {}
    for key, row in pairs:
        found.setdefault(key, []).append(row)
    return found


def _seen_in_training(row: Row) -> tuple[str, str] | None:
    """The splits it is scored and trained on, where they have images in common."""
    data = row.results[0].trial.experiment.data
    validation, train = data.validation_split, data.train_split
    if validation is None or not set(split_parts(validation)) & set(split_parts(train)):
        return None
    return validation, train
