"""What a reader must know to believe a table no further than it goes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.report.bootstrap import REPLICATES
from orchestrator.report.columns import INCOMPARABLE, MIXED, STALE, is_mixed
from orchestrator.report.comparison import SEEDS_FOR_T_TEST
from orchestrator.report.power import seeds_warning
from orchestrator.report.results import Result
from orchestrator.report.rows import Row, expected_difference, pooled_deviation
from orchestrator.stated import Published
from orchestrator.study import Plan, ProfileOptions

# Fewer groups than this say little about others.
_FEW_GROUPS = 10


@dataclass(frozen=True)
class Notes:
    """unfinished: a line for each trial that has no figure, failures first. warnings: why figures
    must not be compared, or show less than was hoped. footnotes: how the figures came about."""

    unfinished: tuple[str, ...]
    warnings: tuple[str, ...]
    footnotes: tuple[str, ...]


def notes_on(plan: Plan, rows: Sequence[Row], others: Sequence[Published]) -> Notes:
    """Everything that is to be said of the table."""
    if plan.study.kind == "profile":
        return Notes((), (), tuple(_profile_footnotes(plan, rows, others)))
    return Notes(
        tuple(_unfinished(rows)),
        tuple(_warnings(plan, rows)),
        tuple(_footnotes(plan, rows, others)),
    )


def _unfinished(rows: Sequence[Row]) -> list[str]:
    order = ("failed", "stopped", "missing", "not scored", "running", "waiting", "stopped early")
    found = [r for row in rows for r in row.results if r.state != "finished"]
    found.sort(key=lambda result: order.index(result.state))
    return [_described(result) for result in found]


def _described(result: Result) -> str:
    text = f"{result.state}: {result.trial.name}"
    run = result.run
    if run is None:
        return text
    if result.state == "failed" and run.reason:
        return f"{text}: {run.reason}"
    epoch = int(run.metrics.get("epoch", 0))
    text += f", epoch {epoch} of {result.trial.experiment.training.epochs}"
    if result.unscored:
        text += (
            f"; what is recorded under the protocol's name is another scoring: {result.unscored}"
        )
    if result.state == "stopped early" and "val/miou" in run.metrics:
        text += f", mIoU {100 * run.metrics['val/miou']:.1f} % there"
    return text


def _warnings(plan: Plan, rows: Sequence[Row]) -> Iterable[str]:
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.incomparable:
            reasons.setdefault(row.incomparable, []).append(_named(row))
    for reason, names in reasons.items():
        yield (
            f"{INCOMPARABLE} NOT COMPARABLE with {plan.study.compare_to}, {reason}: "
            f"{', '.join(names)}. No difference is stated."
        )
    yield from _on_trust(rows)
    yield from _scorings(plan, rows)
    yield from _mixtures(rows)
    stale = [row for row in rows if row.stale]
    if stale:
        which = "all rows" if len(stale) == len(rows) else ", ".join(map(_named, stale))
        yield f"{STALE} Trained by another version of the code than the present one: {which}."
    seen = {
        (data.validation_split, data.train_split)
        for row in rows
        for data in [row.results[0].trial.experiment.data]
        if data.validation_split is not None
        and set(data.validation_split.split("+")) & set(data.train_split.split("+"))
    }
    for validation, train in sorted(seen):
        yield f"Scored on {validation}, which is in part what was trained on ({train})."
    yield from on_seeds(plan, rows)


def _on_trust(rows: Sequence[Row]) -> Iterable[str]:
    """Runs that are taken for a trial's although that could not be made sure."""
    assumed: dict[str, list[str]] = {}
    for result in (result for row in rows for result in row.results if result.assumed):
        assumed.setdefault(result.assumed, []).append(result.trial.name)
    for what, names in assumed.items():
        yield f"NOT CERTAIN whose figures these are, {what}: {', '.join(names)}."


def _scorings(plan: Plan, rows: Sequence[Row]) -> Iterable[str]:
    """Rows that were scored in different ways, on different images or with other code."""
    protocols: dict[str, list[str]] = {}
    splits: dict[str, list[str]] = {}
    for row in rows:
        experiment = row.results[0].trial.experiment
        protocols.setdefault(experiment.evaluation.protocol, []).append(_named(row))
        if experiment.data.validation_split is not None:
            splits.setdefault(experiment.data.validation_split, []).append(_named(row))
    name = plan.study.report.protocol
    for ways, named in (
        (protocols if name is None else {}, "under DIFFERENT PROTOCOLS"),
        (splits, "on DIFFERENT SPLITS"),
    ):
        if len(ways) > 1:
            listed = "; ".join(f"{way}: {', '.join(those)}" for way, those in ways.items())
            yield f"Rows are scored {named} ({listed})."
    stale = [_named(row) for row in rows if any(result.scored_stale for result in row.results)]
    if stale:
        yield (
            f"Scored under {name} by another version of the code than the present one: "
            f"{', '.join(stale)}."
        )


def _mixtures(rows: Sequence[Row]) -> Iterable[str]:
    """Rows that differ, or whose seeds differ, in what decides a result beside the experiment."""
    mixed = [_named(row) for row in rows if is_mixed(row)]
    if mixed:
        yield (
            f"{MIXED} The seeds of a row MIX data, code or precision: {', '.join(mixed)}. Their "
            "mean is of different things."
        )
    named = {"code": "VERSIONS OF THE CODE", "precision": "PRECISIONS"}
    for what, name in named.items():
        kinds = sorted(set().union(*(row.kinds(what) for row in rows)))
        if len(kinds) > 1:
            listed = ", ".join(kinds)
            yield f"Rows were trained with DIFFERENT {name} ({listed}): compare with care."
    versions: dict[str, set[str]] = {}
    for row in rows:
        for result in row.finished:
            if result.run is not None:
                dataset = result.trial.experiment.data.dataset
                versions.setdefault(dataset, set()).add(result.run.data)
    for dataset, prints in versions.items():
        if len(prints) > 1:
            listed = ", ".join(sorted(each[:12] for each in prints))
            yield f"Rows were trained on DIFFERENT VERSIONS of {dataset} (fingerprints {listed})."


def on_seeds(plan: Plan, rows: Sequence[Row]) -> Iterable[str]:
    """A warning where the seeds asked for cannot show the difference that is expected."""
    difference = expected_difference(plan, rows)
    if plan.study.compare_to and plan.study.kind == "table" and difference:
        told = seeds_warning(len(plan.study.seeds), difference, pooled_deviation(rows))
        if told:
            yield told


def _footnotes(plan: Plan, rows: Sequence[Row], others: Sequence[Published]) -> Iterable[str]:
    yield _what_is_scored(plan, rows)
    if plan.study.kind == "search":
        yield (
            "A search: trials may have been given up early, so its figures choose a configuration "
            "and prove nothing. No differences are stated."
        )
    seeds = len(plan.study.seeds)
    if seeds > 1:
        yield f"Mean ± standard deviation over n seeds, {seeds} asked for."
    yield from _on_differences(rows)
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


def _what_is_scored(plan: Plan, rows: Sequence[Row]) -> str:
    name = plan.study.report.protocol
    experiments = [row.results[0].trial.experiment for row in rows]
    if name is None:
        protocol = ", ".join(sorted({each.evaluation.protocol for each in experiments}))
    else:
        protocol = f"{name} ({plan.study.protocols[name].protocol})"
    splits = ", ".join(sorted({each.data.validation_split or "" for each in experiments} - {""}))
    if not splits and name is None:
        return "Trained without validation images: there is no mIoU of their own."
    text = f"mIoU: last checkpoint, split {splits}, protocol {protocol}"
    if any(row.best for row in rows):
        text += "; best: the epoch chosen on that same split"
    return text + "."


def _on_differences(rows: Sequence[Row]) -> Iterable[str]:
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
    if seeds == 1:
        yield (
            "One seed: how much another training of the same rows would differ is NOT in the "
            "interval."
        )
    if 1 < len(groups) < _FEW_GROUPS:
        yield f"With {len(groups)} groups, the interval says little about others than these."
    tested = [row for row in compared if row.difference and row.difference.t_test is not None]
    if tested:
        listed = ", ".join(
            f"{_named(row)} p = {row.difference.t_test:.3g}" for row in tested if row.difference
        )
        yield f"Paired t-test over seeds, uncorrected (from {SEEDS_FOR_T_TEST} seeds on): {listed}."


def _sources(rows: Sequence[Row], others: Sequence[Published]) -> Iterable[str]:
    sources = {row.reference.source for row in rows if row.reference and row.reference.source}
    sources |= {other.source for other in others if other.source}
    if sources:
        yield f"Published: {'; '.join(sorted(sources))}."


def _profile_footnotes(
    plan: Plan, rows: Sequence[Row], others: Sequence[Published]
) -> Iterable[str]:
    options = plan.study.profile or ProfileOptions()
    height, width = options.size
    yield (
        f"Nothing is trained. {options.classes} classes, parameters without auxiliary heads; "
        f"GFLOPs: multiply-adds / 1e9 of one image of {width} x {height} pixels."
    )
    yield from _sources(rows, others)


def _named(row: Row) -> str:
    return ", ".join([row.label, *row.place])
