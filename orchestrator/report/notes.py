"""The notes of a report: unfinished trials, warnings, and how the scores were computed."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from orchestrator.report.bootstrap import REPLICATES
from orchestrator.report.caveats import caveats, row_names
from orchestrator.report.results import Result
from orchestrator.report.rows import Row
from orchestrator.report.significance import SEEDS_FOR_T_TEST
from orchestrator.study.config import ProfileOptions
from orchestrator.study.published import PublishedRow
from orchestrator.study.study import Study
from orchestrator.study.trial_state import TrialState

# With fewer groups of images, an interval does not generalize to other groups.
_FEW_GROUPS = 10


@dataclass(frozen=True)
class Notes:
    """The notes of a report.

    unfinished: a line for each trial without a score, failures first.
    warnings: why rows must not be compared, or scores are unreliable.
    footnotes: how the scores were computed.
    """

    unfinished: tuple[str, ...]
    warnings: tuple[str, ...]
    footnotes: tuple[str, ...]

    def footnotes_on(self, columns: Collection[str]) -> tuple[str, ...]:
        """Return the footnotes on a table with these columns, by their keys."""
        return self.footnotes


def notes_on(study: Study, rows: Sequence[Row], others: Sequence[PublishedRow]) -> Notes:
    """Return all notes on a table. others: published rows of other methods."""
    if study.config.kind == "profile":
        return Notes((), (), tuple(_profile_footnotes(study, rows, others)))
    return Notes(
        tuple(_unfinished(study, rows)),
        tuple(caveats(study, rows)),
        tuple(_footnotes(study, rows, others)),
    )


def _unfinished(study: Study, rows: Sequence[Row]) -> list[str]:
    order = (
        TrialState.FAILED,
        TrialState.INTERRUPTED,
        TrialState.MISSING,
        TrialState.NOT_SCORED,
        TrialState.TRAINING,
        TrialState.WAITING,
        TrialState.STOPPED_EARLY,
    )
    results = [r for row in rows for r in row.results if r.state is not TrialState.FINISHED]
    results.sort(key=lambda result: order.index(result.state))
    return [_description(study, result) for result in results]


def _description(study: Study, result: Result) -> str:
    text = f"{result.state}: {result.trial.name}"
    run = result.run
    if run is None:
        return text
    if result.state is TrialState.FAILED and run.reason:
        return f"{text}: {run.reason}"
    if run.study != study.config.study:
        text += f", in study {run.study}"
    epoch = int(run.metrics.get("epoch", 0))
    text += f", epoch {epoch} of {result.trial.experiment.training.epochs}"
    if result.score_mismatch:
        text += f"; the score recorded under this protocol does not count: {result.score_mismatch}"
    if result.state is TrialState.STOPPED_EARLY and "val/miou" in run.metrics:
        text += f", mIoU {100 * run.metrics['val/miou']:.1f} %"
    return text


def _footnotes(study: Study, rows: Sequence[Row], others: Sequence[PublishedRow]) -> Iterable[str]:
    yield _scoring(study, rows)
    if study.config.kind == "search":
        yield (
            "Search: trials may have been stopped early, so the scores help to choose a "
            "configuration but do not support comparisons. No differences are reported."
        )
    seeds = len(study.config.seeds)
    if seeds > 1:
        yield f"Mean ± standard deviation over n seeds; {seeds} seeds requested."
    yield from _differences(study, rows)
    if any(row.entered for row in rows):
        sources = {
            result.trial.entered.source
            for row in rows
            for result in row.results
            if result.trial.entered is not None
        }
        yield f"Scores entered by hand (entered %): {'; '.join(sorted(sources))}."
    yield from _sources(rows, others)
    if any(row.cost is not None for row in rows):
        yield "Parameters exclude auxiliary heads. GFLOPs: multiply-adds / 1e9 for one image."
    if any(row.hours is not None for row in rows):
        yield "Training speed (images/s) and hours per training are means over the row's trials."


def _scoring(study: Study, rows: Sequence[Row]) -> str:
    name = study.config.report.protocol
    experiments = [row.results[0].trial.experiment for row in rows]
    if name is None:
        protocol = ", ".join(sorted({each.evaluation.protocol for each in experiments}))
    else:
        protocol = f"{name} ({study.config.protocols[name].protocol})"
    splits = ", ".join(sorted({each.data.validation_split or "" for each in experiments} - {""}))
    if not splits and name is None:
        return "Trained without a validation split, so no mIoU was measured."
    text = f"mIoU of the last checkpoint on split {splits}, protocol {protocol}"
    if any(row.best for row in rows):
        text += "; best: mIoU of the best epoch, selected on that same split"
    return text + "."


def _differences(study: Study, rows: Sequence[Row]) -> Iterable[str]:
    compared = [row for row in rows if row.difference is not None]
    with_interval = [row for row in compared if row.difference and row.difference.interval]
    if not compared:
        return
    axes = " x ".join(axis.split(".")[-1] for axis in study.config.grid)
    several_cells = len({row.grid_cell for row in rows}) > 1
    in_grid = f" (in parentheses in the table by {axes})" if several_cells else ""
    paired = f"Differences{in_grid} are relative to {study.config.compare_to} and paired by seed."
    if not with_interval:
        yield f"{paired} No intervals: per-image counts are missing."
        return
    counts = next(r.counts for row in with_interval for r in row.finished if r.counts is not None)
    groups = {group for group in counts.groups if group is not None}
    seeds = max(len(row.difference.seeds) for row in with_interval if row.difference)
    levels = ["seeds (Student's t)"] * (seeds > 1)
    levels += [f"{len(groups)} groups"] * (len(groups) > 1)
    prefix = f"{', '.join(levels)} and " if levels else ""
    count = len(with_interval)
    corrected = ""
    if count > 1:
        corrected = f", corrected for {count} comparisons by Holm's method; the intervals are not"
    yield (
        f"{paired} Each has its own 95 % confidence interval (CI) from a hierarchical bootstrap "
        f"over {prefix}{len(counts.identifiers)} images ({REPLICATES} replicates, mIoU "
        f"recomputed from summed per-image counts). p values are two-sided{corrected}."
    )
    single = [row for row in with_interval if row.difference and len(row.difference.seeds) == 1]
    if single:
        which = "" if len(single) == count else f" ({row_names(single, rows)})"
        yield f"One seed{which}: the interval does not include the variation between seeds."
    yield from _gaps(study, rows)
    if 1 < len(groups) < _FEW_GROUPS:
        yield (
            f"There are only {len(groups)} groups of images, so the intervals may not hold for "
            "other groups."
        )
    tested = [row for row in compared if row.difference and row.difference.t_test is not None]
    if tested:
        p_values = ", ".join(
            f"{row_names([row], rows)} p = {row.difference.t_test:.3g}"
            for row in tested
            if row.difference
        )
        yield (
            f"Paired t-test over seeds, uncorrected, for rows with at least {SEEDS_FOR_T_TEST} "
            f"seeds: {p_values}."
        )


def _gaps(study: Study, rows: Sequence[Row]) -> Iterable[str]:
    """Yield notes on differences over fewer seeds than requested, and on missing intervals."""
    by_seeds: dict[tuple[int, ...], list[Row]] = {}
    without_interval = []
    for row in rows:
        if row.difference is None:
            continue
        if len(row.difference.seeds) < len(study.config.seeds):
            by_seeds.setdefault(row.difference.seeds, []).append(row)
        if row.difference.interval is None:
            without_interval.append(row)
    for seeds, those in by_seeds.items():
        listed = ", ".join(map(str, seeds))
        yield (
            f"The difference is over the shared seeds ({listed}) only, so it is not the difference "
            f"of the means in the table: {row_names(those, rows)}."
        )
    if without_interval:
        yield f"No interval: per-image counts are missing for {row_names(without_interval, rows)}."


def _sources(rows: Sequence[Row], others: Sequence[PublishedRow]) -> Iterable[str]:
    sources = {row.reference.source for row in rows if row.reference and row.reference.source}
    sources |= {other.source for other in others if other.source}
    if sources:
        yield f"Published values: {'; '.join(sorted(sources))}."


def _profile_footnotes(
    study: Study, rows: Sequence[Row], others: Sequence[PublishedRow]
) -> Iterable[str]:
    options = study.config.profile or ProfileOptions()
    height, width = options.size
    yield (
        f"Nothing is trained. {options.classes} classes. Parameters exclude auxiliary heads. "
        f"GFLOPs: multiply-adds / 1e9 for one image of {width} x {height} pixels."
    )
    yield from _sources(rows, others)
