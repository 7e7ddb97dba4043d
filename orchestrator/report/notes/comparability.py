"""Warnings on rows that were scored, or trained, differently."""

from collections.abc import Iterable, Sequence

from orchestrator.report.rows.row import Row, group_rows, row_names
from orchestrator.report.tables.cells import MIXED, is_mixed
from orchestrator.study.study import Study
from pipelines.data.split_names import general_name


def different_scoring(study: Study, rows: Sequence[Row]) -> Iterable[str]:
    """Yield rows that differ in protocol or split, or were scored with a different code version."""
    experiments = [(row.results[0].trial.experiment, row) for row in rows]
    name = study.config.report.protocol
    protocols = group_rows((each.evaluation.protocol, row) for each, row in experiments)
    scored = [
        (study.config.scored_split(name, each.data.validation_split), row)
        for each, row in experiments
    ]
    splits = group_rows((general_name(split), row) for split, row in scored if split is not None)
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


def different_training(rows: Sequence[Row]) -> Iterable[str]:
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
