"""The notes of a report: unfinished trials, warnings, and how the scores were computed."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from orchestrator.report.notes.caveats import caveats
from orchestrator.report.notes.differences import difference_notes, overall_notes
from orchestrator.report.rows.comparisons import OverallDifference
from orchestrator.report.rows.results import Result
from orchestrator.report.rows.row import Row, row_names
from orchestrator.report.rows.scores import find_score, shown_columns
from orchestrator.report.tables.columns import setting_text
from orchestrator.report.tables.latency import latency_notes
from orchestrator.study.config import ProfileOptions
from orchestrator.study.published import PublishedRow
from orchestrator.study.report_options import score_label
from orchestrator.study.sampling import range_text
from orchestrator.study.search_checks import OF_THE_TABLE, base_differences
from orchestrator.study.search_match import differences_text, is_below
from orchestrator.study.search_result import FILE
from orchestrator.study.study import Study
from orchestrator.study.trial_state import TrialState
from pipelines.data.split_names import general_name


@dataclass(frozen=True)
class Notes:
    """The notes of a report.

    unfinished: a line for each trial without a score, failures first.
    warnings: why rows must not be compared, or scores are unreliable.
    footnotes: how the scores were computed.
    subjects: for each footnote, the keys of the columns it is about; empty if it is about all.
    """

    unfinished: tuple[str, ...]
    warnings: tuple[str, ...]
    footnotes: tuple[str, ...]
    subjects: tuple[frozenset[str], ...]

    def on(self, columns: Collection[str]) -> "Notes":
        """Return the notes without the footnotes on other columns. columns: their keys."""
        tagged = zip(self.footnotes, self.subjects, strict=True)
        kept = [each for each in tagged if not each[1] or each[1] & set(columns)]
        return replace(
            self,
            footnotes=tuple(note for note, _ in kept),
            subjects=tuple(subject for _, subject in kept),
        )


def notes_on(
    study: Study,
    rows: Sequence[Row],
    published_rows: Sequence[PublishedRow],
    overall: Sequence[OverallDifference] = (),
    planned: Sequence[Row] = (),
) -> Notes:
    """Return all notes on a table. published_rows: of other methods. overall: differences over all
    cells of the grid. planned: all rows of the study, if `rows` are a part of them."""
    if study.config.kind == "profile":
        footnotes = tuple(_profile_footnotes(study, rows, published_rows))
        return Notes((), (), footnotes, (frozenset(),) * len(footnotes))
    tagged = list(_footnotes(study, rows, published_rows, overall))
    return Notes(
        tuple(_unfinished(study, rows)),
        tuple(caveats(study, rows, planned)),
        tuple(note for note, *_ in tagged),
        tuple(frozenset(keys) for _, *keys in tagged),
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
    # A trial that a search stopped early is done; the table says how many there are.
    done = {TrialState.FINISHED}
    if study.config.sampling is not None:
        done.add(TrialState.STOPPED_EARLY)
    selected = {trial.name for trial in study.trials}
    results = [
        result
        for row in rows
        for result in row.results
        if result.state not in done and result.trial.name in selected
    ]
    results.sort(key=lambda result: order.index(result.state))
    return [_description(study, result) for result in results]


def _description(study: Study, result: Result) -> str:
    trial = result.trial
    label = f" ({trial.label})" if trial.label != trial.variant else ""
    text = f"{result.state}: {trial.name}{label}"
    run = result.run
    if run is None or result.state is TrialState.MISSING:
        return text
    if result.state is TrialState.FAILED and run.reason:
        return f"{text}: {run.reason}"
    if run.study != study.config.study:
        text += f", in study {run.study}"
    epoch = int(run.metrics.get("epoch", 0))
    training = trial.experiment.training
    # How many epochs `training.steps` takes depends on the data set.
    text += f", epoch {epoch} of {training.epochs or f'a training of {training.steps} steps'}"
    if result.score_mismatch:
        text += (
            "; the score recorded under this protocol was made with other settings: "
            f"{result.score_mismatch}"
        )
    if result.state is TrialState.STOPPED_EARLY and "val/miou" in run.metrics:
        text += f", mIoU {100 * run.metrics['val/miou']:.1f} %"
    return text


def _footnotes(
    study: Study,
    rows: Sequence[Row],
    published_rows: Sequence[PublishedRow],
    overall: Sequence[OverallDifference],
) -> Iterable[tuple[str, ...]]:
    """Yield each footnote, followed by the keys of the columns it is about."""
    yield from _scoring(study, rows)
    if study.config.kind == "search":
        stopped = "; weak trials may have been stopped early" * (
            study.config.early_stopping is not None
        )
        yield (
            f"This is a search{stopped}. Use it to choose a configuration. It does not support "
            "comparisons, so none are shown.",
        )
    yield from _sampling(study)
    yield from _tuning(study)
    planned = len(study.config.repetitions)
    # The table of means over the grid has no ±; that of the best samples has a column of its own.
    deviations = ("miou", "best", "entered", *(study.config.report.columns or ()))
    if study.config.sampling is not None:
        deviations = ()
    if study.config.fold_count is not None:
        seeds = len(study.config.seeds)
        plural = "s" if seeds > 1 else ""
        yield (
            f"Cross-validation: mIoU is the mean over n trainings, one for each fold of each seed "
            f"({study.config.fold_count} folds x {seeds} seed{plural} planned); ± is one standard "
            "deviation over them. Folds differ in their images, so it is no error of the mean.",
            *deviations,
        )
    elif planned > 1:
        yield (
            f"± is one standard deviation over the n seeds that finished ({planned} planned).",
            *deviations,
        )
    yield from difference_notes(study, rows)
    yield from _other_metrics(study, rows)
    yield from overall_notes(overall)
    differences = [row.difference for row in rows] + [each.difference for each in overall]
    if any(each and each.significant for each in differences):
        yield "Differences in bold: p, adjusted, is below 0.05.", "difference", "overall"
    if any(row.entered for row in rows):
        sources = {
            result.trial.entered.source
            for row in rows
            for result in row.results
            if result.trial.entered is not None
        }
        listed = "; ".join(sorted(sources))
        yield f"Entered %: scores from the study file (source: {listed}).", "entered"
    for note in _sources(study, rows, published_rows):
        yield note, "published", "published_difference", "published_elsewhere"
    if any(row.cost is not None for row in rows):
        yield "Parameters exclude auxiliary heads.", "parameters_m"
        yield "GFLOPs: billions of multiply-adds for one training crop.", "gflops"
    yield from latency_notes(study.config, rows)
    if any(row.hours is not None for row in rows) and study.config.sampling is None:
        yield (
            "Images/s is training throughput, hours the time of one training; both are means over "
            "the row's trials.",
            "images_per_second",
            "hours",
        )


def _sampling(study: Study) -> Iterable[tuple[str, ...]]:
    """Yield the notes on the samples of a search."""
    config, sampling = study.config, study.config.sampling
    if sampling is None:
        return
    drawn = "all rows have the same samples, drawn at random"
    if sampling.method == "tpe":
        drawn = (
            f"{sampling.random_count} drawn at random, the same for all rows, and the others "
            "by the scores of the row's own samples (TPE)"
        )
    ranges = "; ".join(f"{key} {range_text(each)}" for key, each in config.sample.items())
    yield f"{sampling.count} samples of each row: {drawn}. Ranges: {ranges}.", "sample"
    label = score_label(sampling.metric)
    yield (
        f"The best sample of each row is chosen by {label} on the images that it is scored on, so "
        f"its score is optimistic. A table takes it by `from_search`, with {FILE} of this report; "
        "train the table with other seeds.",
        "sample",
    )


def _tuning(study: Study) -> Iterable[tuple[str, ...]]:
    """Yield the note on the values that a table takes from a search."""
    result = study.config.search_result
    if result is None:
        return
    keys = ", ".join(f"{key} {range_text(each)}" for key, each in result.ranges.items())
    seeds = f"seed{'s' if len(result.seeds) > 1 else ''} {', '.join(map(str, result.seeds))}"
    tried = sorted({row.tried for row in result.rows})
    count = f"{tried[0]} to {tried[-1]}" if len(tried) > 1 else str(tried[0])
    yield (
        f"Each row has the best of {count} samples of search {result.search!r} "
        f"({result.method}; {keys}), chosen by {score_label(result.metric)} on split "
        f"{result.split} with {seeds}.",
    )
    differing = base_differences(study.all_trials)
    later = {key: each for key, each in differing.items() if is_below(key, OF_THE_TABLE)}
    if later:
        yield (f"Other settings in search {result.search!r}: {differences_text(later)}.",)
    before: dict[str, list[str]] = {}  # a row may have been another one in each cell of the grid
    for trial in study.all_trials:
        found = before.setdefault(trial.variant, [])
        if trial.tuned is not None and trial.tuned.found.variant not in found:
            found.append(trial.tuned.found.variant)
    renamed = {row: found for row, found in before.items() if found not in ([], [row])}
    if renamed:
        names = ", ".join(f"{row} was {' and '.join(found)}" for row, found in renamed.items())
        yield (f"Rows that had another name in search {result.search!r}: {names}.",)


def _other_metrics(study: Study, rows: Sequence[Row]) -> Iterable[tuple[str, ...]]:
    """Yield the notes on the metrics other than mIoU."""
    keys = study.config.report.differences
    if any(row.differences for row in rows):
        yield (
            "Differences in other metrics than mIoU have intervals of the same kind, from the sums "
            "of each image. They are not among the comparisons of the study, so they have no p.",
            *(f"difference/{key}" for key in keys),
        )
    names = dict.fromkeys((*keys, *shown_columns(study.config)))
    scores = [find_score(study.config, rows, name) for name in names]
    lower = [score for score in scores if score is not None and not score.higher_is_better]
    if lower:
        listed = ", ".join(dict.fromkeys(score.label for score in lower))
        keys_of_lower = [score.key for score in lower]
        yield (
            f"Lower is better: {listed}.",
            *keys_of_lower,
            *(f"difference/{key}" for key in keys_of_lower),
        )


def _scoring(study: Study, rows: Sequence[Row]) -> Iterable[tuple[str, ...]]:
    name = study.config.report.protocol
    experiments = [row.results[0].trial.experiment for row in rows]
    if name is None:
        protocol = ", ".join(sorted({each.evaluation.protocol for each in experiments}))
    else:
        protocol = f"{name} ({study.config.protocols[name].protocol})"
    scored = {study.config.scored_split(name, each.data.validation_split) for each in experiments}
    splits = ", ".join(sorted({general_name(split) for split in scored if split is not None}))
    if not splits and name is None:
        yield ("Trained without validation images, so there is no mIoU.",)
        return
    yield (f"mIoU is that of the last checkpoint on split {splits}, protocol {protocol}.",)
    if any(row.best for row in rows):
        yield (
            "Best epoch %: mIoU of each trial's best epoch on the same images, and therefore "
            "optimistic.",
            "best",
        )


def _sources(
    study: Study, rows: Sequence[Row], published_rows: Sequence[PublishedRow]
) -> Iterable[str]:
    sources = {row.reference.source for row in rows if row.reference and row.reference.source}
    sources |= {each.source for each in published_rows if each.source}
    if not sources:
        return
    published = [row for row in rows if row.published is not None] or rows
    those = [row for row in published if row.published_elsewhere]
    elsewhere = ""
    if those:
        here = "here" if len(those) == len(published) else f"that of {row_names(those, rows)}"
        elsewhere = f" (for {setting_text(study.config)}, another setting than {here})"
    yield f"Published values: {'; '.join(sorted(sources))}{elsewhere}."


def _profile_footnotes(
    study: Study, rows: Sequence[Row], published_rows: Sequence[PublishedRow]
) -> Iterable[str]:
    options = study.config.profile or ProfileOptions()
    height, width = options.size
    yield (
        f"Nothing was trained. {options.classes} classes. Parameters exclude auxiliary heads. "
        f"GFLOPs: billions of multiply-adds for one image of {height} x {width} pixels "
        "(height x width)."
    )
    yield from _sources(study, rows, published_rows)
