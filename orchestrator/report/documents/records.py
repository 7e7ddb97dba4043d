"""The report as records of plain values: the lines of the table, as CSV too, and the trials."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence

from orchestrator.report.rows.row import Row, is_finished
from orchestrator.report.rows.scores import find_score, shown_columns
from orchestrator.report.tables.latency import latency_record
from orchestrator.study.published import PublishedRow
from orchestrator.study.repetition import Repetition, repetition_text
from orchestrator.study.sampling import SearchSample, value_text
from orchestrator.study.study import Study
from pipelines.data.split_names import general_name

Value = str | float | int | None

# Columns of whole numbers and of text in these records; all others, the study's keys aside, are of
# fractions.
INTEGERS = frozenset(
    {
        *("n", "seeds_requested", "folds_requested", "difference_n", "comparisons", "stale"),
        *("published_elsewhere", "sample", "seed", "fold", "epoch"),
    }
)
TEXTS = frozenset(
    {
        *("kind", "variant", "label", "split", "protocol", "compared_to", "difference_method"),
        *("source", "latency_device", "unfinished", "uncertain", "incomparable", "data", "code"),
        *("precision", "runs", "trial", "state", "run_id", "study", "identity", "workers"),
    }
)
# Columns of the CSV that are left out if all of their values are missing.
_STATISTICS = {
    *("interval_low", "interval_high", "p", "p_holm", "comparisons", "smallest_detectable"),
    *("image_interval_low", "image_interval_high"),
}


def table_records(
    study: Study, rows: Sequence[Row], published_rows: Sequence[PublishedRow]
) -> list[dict[str, Value]]:
    """Return the lines of the table by column, all with the same columns: mIoU in percent,
    differences in percentage points, missing values None. The column `kind` is `trained`,
    `profile` or `published`."""
    lines: list[dict[str, Value]] = [_line(study, row) for row in rows]
    lines += [
        {
            "kind": "published",
            "label": each.label,
            **{
                axis: _condition_text(each.when[axis])
                for axis in study.config.grid
                if axis in each.when
            },
            "parameters_m": each.parameters_m,
            "gflops": each.gflops,
            "published_miou": each.miou,
            "source": each.source,
        }
        for each in published_rows
    ]
    names = dict.fromkeys(name for line in lines for name in line)
    # Without a test, there is no column that looks like one.
    for name in _STATISTICS & names.keys():
        if all(line.get(name) is None for line in lines):
            del names[name]
    return [{name: line.get(name) for name in names} for line in lines]


def as_csv(records: Sequence[Mapping[str, Value]]) -> str:
    """Return the lines of a table as CSV; missing values are empty."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def _other_scores(study: Study, row: Row) -> dict[str, Value]:
    """Return the scores of `shown_columns` and the differences, in the table's units."""
    line: dict[str, Value] = {}
    columns = [name for name in shown_columns(study.config) if name != "miou"]
    for key in columns:
        score = find_score(study.config, [row], key)
        values = list(score.values(row).values()) if score is not None else []
        if values:
            line[f"{key}_mean"] = statistics.fmean(values)
            line[f"{key}_sd"] = statistics.stdev(values) if len(values) > 1 else None
    for key in study.config.report.differences:
        difference = row.differences.get(key)
        low, high = (difference.interval if difference else None) or (None, None)
        line[f"difference/{key}"] = difference.mean if difference else None
        line |= {f"difference/{key}_low": low, f"difference/{key}_high": high}
    return line


def _line(study: Study, row: Row) -> dict[str, Value]:
    values, difference, cost = list(row.miou.values()), row.difference, row.cost
    reference = row.reference
    low, high = (difference.interval if difference else None) or (None, None)
    image_low, image_high = (difference.image_interval if difference else None) or (None, None)
    experiment, protocol = row.results[0].trial.experiment, study.config.report.protocol
    scoring = experiment.evaluation if protocol is None else study.config.protocols[protocol]
    split = study.config.scored_split(protocol, experiment.data.validation_split)
    profile = study.config.kind == "profile"
    states = {result.state for result in row.results if not is_finished(result)}
    return {
        "kind": "profile" if profile else "trained",
        "variant": row.variant,
        "label": row.label,
        **{axis: str(row.axes[axis]) for axis in study.config.grid},
        **_sample(row.sample),
        "split": None if profile or split is None else general_name(split),
        "protocol": None if profile else scoring.protocol,
        "n": len(values),
        **_requested(study, row),
        "miou_mean": statistics.fmean(values) if values else None,
        "miou_sd": statistics.stdev(values) if len(values) > 1 else None,
        **{f"miou_{_key(each)}": row.miou.get(each) for each in study.config.repetitions},
        "best_miou_mean": statistics.fmean(row.best.values()) if row.best else None,
        "entered_miou_mean": statistics.fmean(row.entered.values()) if row.entered else None,
        **_other_scores(study, row),
        "compared_to": row.compared_to or None,
        "difference": difference.mean if difference else None,
        "difference_n": len(difference.seeds) if difference else None,
        "difference_sd": difference.deviation if difference else None,
        "difference_method": difference.method if difference else None,
        "difference_sd_used": difference.spread if difference else None,
        "interval_low": low,
        "interval_high": high,
        "p": difference.p if difference else None,
        "p_holm": difference.p_adjusted if difference else None,
        "comparisons": difference.comparisons if difference and difference.p is not None else None,
        "smallest_detectable": difference.detectable if difference else None,
        "image_interval_low": image_low,
        "image_interval_high": image_high,
        "published_miou": row.published,
        "published_elsewhere": int(row.published_elsewhere) if row.published else None,
        "published_difference": row.published_difference,
        "source": reference.source if reference else None,
        "parameters_m": cost.parameters_m if cost else None,
        "gflops": cost.gflops if cost else None,
        "published_parameters_m": reference.parameters_m if reference else None,
        "published_gflops": reference.gflops if reference else None,
        **latency_record(study.config, row),
        "images_per_second": row.images_per_second,
        "hours": row.hours,
        "unfinished": None if profile else " ".join(sorted(states)),
        "stale": int(row.stale),
        "uncertain": "; ".join(sorted({r.uncertainty for r in row.results if r.uncertainty})),
        "incomparable": row.incomparable,
        **{name: " ".join(sorted(row.run_values(name))) for name in ("data", "code", "precision")},
        "runs": " ".join(result.run.run_id for result in row.finished if result.run is not None),
    }


def _sample(sample: SearchSample | None) -> dict[str, Value]:
    """Return the number of a sample and its values; empty for None."""
    if sample is None:
        return {}
    texts = {key: value_text(value) for key, value in sample.values.items()}
    return {"sample": sample.number, **texts}


def _requested(study: Study, row: Row) -> dict[str, Value]:
    """Return how many trainings of a row the study has."""
    seeds = len({result.trial.experiment.seed for result in row.results})
    folds = study.config.fold_count
    return {"seeds_requested": seeds, **({} if folds is None else {"folds_requested": folds})}


def _key(repetition: Repetition) -> str:
    """Return a repetition as part of a column's name, such as `seed_0` or `seed_0_fold_2`."""
    return repetition_text(repetition).replace(", ", "_").replace(" ", "_")


def trial_records(study: Study, rows: Sequence[Row]) -> list[dict[str, Value]]:
    """Return one record for each trial of the rows: its settings, state, scores in percent, and run
    with all of the run's metrics under their names in MLflow."""
    records = []
    for result in (result for row in rows for result in row.results):
        trial, run = result.trial, result.run
        record: dict[str, Value] = {
            "trial": trial.name,
            "variant": trial.variant,
            "label": trial.label,
            **{axis: str(value) for axis, value in trial.axes.items()},
            **_sample(trial.sample),
            "seed": trial.experiment.seed,
            **({} if study.config.folds is None else {"fold": trial.experiment.data.fold}),
            "state": str(result.state),
            "miou": result.miou,
            "best_miou": result.best,
            "stale": int(result.stale),
            "uncertain": result.uncertainty,
        }
        names = ("run_id", "study", "identity", "code", "data", "precision", "workers", "hours")
        record |= {name: getattr(run, name, None) for name in (*names, "epoch")}
        if run is not None:
            record |= run.metrics
        records.append(record)
    return records


def _condition_text(value: object) -> str:
    """Return the value of an axis, as in the lines of trained rows, or several of them."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
