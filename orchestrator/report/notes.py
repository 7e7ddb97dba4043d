"""What a reader must know to believe a table no further than it goes."""

from collections.abc import Iterable, Sequence
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

# Fewer groups than this say little about others.
_FEW_GROUPS = 10


@dataclass(frozen=True)
class Notes:
    """unfinished: a line for each trial that has no figure, failures first. warnings: why figures
    must not be compared, or show less than was hoped. footnotes: how the figures came about."""

    unfinished: tuple[str, ...]
    warnings: tuple[str, ...]
    footnotes: tuple[str, ...]


def notes_on(study: Study, rows: Sequence[Row], others: Sequence[PublishedRow]) -> Notes:
    """Everything that is to be said of the table."""
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
    found = [r for row in rows for r in row.results if r.state is not TrialState.FINISHED]
    found.sort(key=lambda result: order.index(result.state))
    return [_described(study, result) for result in found]


def _described(study: Study, result: Result) -> str:
    text = f"{result.state}: {result.trial.name}"
    run = result.run
    if run is None:
        return text
    if result.state is TrialState.FAILED and run.reason:
        return f"{text}: {run.reason}"
    if run.study != study.config.study:
        text += f", by the study {run.study}"
    epoch = int(run.metrics.get("epoch", 0))
    text += f", epoch {epoch} of {result.trial.experiment.training.epochs}"
    if result.unscored:
        text += (
            f"; what is recorded under the protocol's name is another scoring: {result.unscored}"
        )
    if result.state is TrialState.STOPPED_EARLY and "val/miou" in run.metrics:
        text += f", mIoU {100 * run.metrics['val/miou']:.1f} % there"
    return text


def _footnotes(study: Study, rows: Sequence[Row], others: Sequence[PublishedRow]) -> Iterable[str]:
    yield _what_is_scored(study, rows)
    if study.config.kind == "search":
        yield (
            "A search: trials may have been given up early, so its figures choose a configuration "
            "and prove nothing. No differences are stated."
        )
    seeds = len(study.config.seeds)
    if seeds > 1:
        yield f"Mean ± standard deviation over n seeds, {seeds} asked for."
    yield from _on_differences(study, rows)
    if any(row.entered for row in rows):
        sources = {
            result.trial.entered.source
            for row in rows
            for result in row.results
            if result.trial.entered is not None
        }
        yield f"By hand: {'; '.join(sorted(sources))}."
    yield from _sources(rows, others)
    if any(row.cost is not None for row in rows):
        yield "Parameters without auxiliary heads; GFLOPs: multiply-adds / 1e9 of one image."
    if any(row.hours is not None for row in rows):
        yield "Images/s while training, and hours of one training: means over the row's trials."


def _what_is_scored(study: Study, rows: Sequence[Row]) -> str:
    name = study.config.report.protocol
    experiments = [row.results[0].trial.experiment for row in rows]
    if name is None:
        protocol = ", ".join(sorted({each.evaluation.protocol for each in experiments}))
    else:
        protocol = f"{name} ({study.config.protocols[name].protocol})"
    splits = ", ".join(sorted({each.data.validation_split or "" for each in experiments} - {""}))
    if not splits and name is None:
        return "Trained without validation images: there is no mIoU of their own."
    text = f"mIoU: last checkpoint, split {splits}, protocol {protocol}"
    if any(row.best for row in rows):
        text += "; best: the epoch chosen on that same split"
    return text + "."


def _on_differences(study: Study, rows: Sequence[Row]) -> Iterable[str]:
    compared = [row for row in rows if row.difference is not None]
    with_interval = [row for row in compared if row.difference and row.difference.interval]
    if not compared:
        return
    if not with_interval:
        yield "Differences are paired by seed; without counts by image there is no interval."
        return
    scored = next(r.scored for row in with_interval for r in row.finished if r.scored is not None)
    groups = {group for group in scored.groups if group is not None}
    levels = f"{len(groups)} groups, then images" if len(groups) > 1 else "images"
    seeds = max(len(row.difference.seeds) for row in with_interval if row.difference)
    first = "seeds (Student's t), then " if seeds > 1 else ""
    count = len(with_interval)
    several = f", corrected for {count} comparisons by Holm's method" if count > 1 else ""
    yield (
        f"Differences are paired; interval: 95 %, of each difference by itself, hierarchical "
        f"bootstrap over {first}{levels} ({len(scored.identifiers)} in all, {REPLICATES} "
        f"replicates, mIoU recomputed from summed counts); p two-sided{several}."
    )
    single = [row for row in with_interval if row.difference and len(row.difference.seeds) == 1]
    if single:
        which = "" if len(single) == count else f" ({row_names(single, rows)})"
        yield (
            f"One seed{which}: how much another training of the same rows would differ is NOT in "
            "the interval."
        )
    yield from _on_gaps(study, rows)
    if 1 < len(groups) < _FEW_GROUPS:
        yield f"With {len(groups)} groups, the interval says little about others than these."
    tested = [row for row in compared if row.difference and row.difference.t_test is not None]
    if tested:
        told = ", ".join(
            f"{row_names([row], rows)} p = {row.difference.t_test:.3g}"
            for row in tested
            if row.difference
        )
        yield f"Paired t-test over seeds, uncorrected (from {SEEDS_FOR_T_TEST} seeds on): {told}."


def _on_gaps(study: Study, rows: Sequence[Row]) -> Iterable[str]:
    """Differences over fewer seeds than asked for, and those without an interval."""
    over: dict[tuple[int, ...], list[Row]] = {}
    bare = []
    for row in rows:
        if row.difference is None:
            continue
        if len(row.difference.seeds) < len(study.config.seeds):
            over.setdefault(row.difference.seeds, []).append(row)
        if row.difference.interval is None:
            bare.append(row)
    for seeds, those in over.items():
        told = ", ".join(map(str, seeds))
        yield (
            f"Difference over the seeds that both rows have ({told}), not that of the means in the "
            f"table: {row_names(those, rows)}."
        )
    if bare:
        yield f"No interval for want of counts by image: {row_names(bare, rows)}."


def _sources(rows: Sequence[Row], others: Sequence[PublishedRow]) -> Iterable[str]:
    sources = {row.reference.source for row in rows if row.reference and row.reference.source}
    sources |= {other.source for other in others if other.source}
    if sources:
        yield f"Published: {'; '.join(sorted(sources))}."


def _profile_footnotes(
    study: Study, rows: Sequence[Row], others: Sequence[PublishedRow]
) -> Iterable[str]:
    options = study.config.profile or ProfileOptions()
    height, width = options.size
    yield (
        f"Nothing is trained. {options.classes} classes, parameters without auxiliary heads; "
        f"GFLOPs: multiply-adds / 1e9 of one image of {width} x {height} pixels."
    )
    yield from _sources(rows, others)
