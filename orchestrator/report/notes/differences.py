"""The footnotes on differences: how they, their intervals and their p values were computed."""

from collections.abc import Iterable, Sequence

from orchestrator.report.notes.sampling import (
    few_images_notes,
    no_intervals_note,
    sampling_text,
    samplings,
)
from orchestrator.report.rows.comparisons import OverallDifference
from orchestrator.report.rows.row import Row, row_names
from orchestrator.report.statistics.bootstrap import REPLICATES
from orchestrator.report.statistics.significance import Difference
from orchestrator.report.tables.columns import own_published_difference, row_label
from orchestrator.study.repetition import Repetition, fold_of, seed_of
from orchestrator.study.study import Study
from pipelines.data.split_names import parse_fold

# Two scores in percent that differ by less are equal in the table.
_VISIBLE = 0.005


def difference_notes(study: Study, rows: Sequence[Row]) -> Iterable[tuple[str, ...]]:
    """Yield the notes on the differences in a table, each followed by the keys of the columns it
    is about; none if there are no differences."""
    compared = [(row, row.difference) for row in rows if row.difference is not None]
    if not compared:
        return
    variants = {difference.compared_to for _, difference in compared}
    compared_to = row_label(study.config, next(iter(variants)))
    if len(variants) > 1:
        compared_to = f"the row it is compared to ({_named_bases(study, rows)})"
    folds = study.config.fold_count
    over, same = ("seeds", "seed") if folds is None else ("seeds and folds", "seed, same fold")
    of_rows = ("difference", "p", *(f"difference/{k}" for k in study.config.report.differences))
    # The means over the grid have the same intervals and tests, but their own spread and size.
    of_all = (*of_rows, "overall", "overall_p")
    yield (
        f"Difference: mean over {over} of row minus {compared_to}, in points, same {same} and same "
        "images.",
        *of_all,
    )
    for note in _classes(rows):
        yield note, *of_rows
    if folds is None:
        intervals = _intervals(study, rows, compared)
    else:
        data = rows[0].results[0].trial.experiment.data
        scored = study.config.scored_split(study.config.report.protocol, data.validation_split)
        separate_images = parse_fold(scored or "") is not None
        intervals = _fold_intervals(study, folds, separate_images, rows, compared)
    for note in intervals:
        yield note, *of_all
    for note in _spread(rows, compared, "seed" if folds is None else "fold"):
        yield note, *of_rows
    differences = [difference for _, difference in compared]
    for note in _tests(differences):
        yield note, *of_all
    size = _smallest(differences)
    if size:
        yield f"Smallest difference this table can show: {size}.", *of_rows
    for note in _gaps(study, rows):
        yield note, *of_rows
    for note in _published(rows):
        yield note, "published", "published_difference"


def _named_bases(study: Study, rows: Sequence[Row]) -> str:
    """Return which rows are compared to which one, with that of most rows last; of equal numbers,
    the study's `compare_to`."""
    by_base: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.compared_to:
            by_base.setdefault(row.compared_to, {})[row_label(study.config, row.variant)] = None
    usual = study.config.compare_to
    *fewer, most = sorted(by_base, key=lambda base: (len(by_base[base]), base == usual))
    parts = [f"{row_label(study.config, base)} for {', '.join(by_base[base])}" for base in fewer]
    return "; ".join([*parts, f"{row_label(study.config, most)} for the others"])


def _classes(rows: Sequence[Row]) -> Iterable[str]:
    """Yield the rows whose own mIoU and differences are over different classes."""
    by_classes: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        names = sorted(
            {
                name
                for result in row.finished
                if result.counts is not None and result.miou is not None
                if abs(result.miou - 100 * result.counts.labeled_miou) > _VISIBLE
                for name in result.counts.predicted_only
            }
        )
        if names:
            by_classes.setdefault(tuple(names), []).append(row)
    for classes, those in by_classes.items():
        yield (
            f"{row_names(those, rows)}: predictions have classes that no label has "
            f"({', '.join(classes)}). "
            "They count as 0 in the mIoU column, as in the benchmarks, but not in differences, "
            "which are over the classes in the labels."
        )


def _intervals(
    study: Study, rows: Sequence[Row], compared: Sequence[tuple[Row, Difference]]
) -> Iterable[str]:
    """Yield how intervals were computed, by data set."""
    both = [row for row, difference in compared if difference.interval is not None]
    alone = [row for row, difference in compared if difference.image_interval is not None]
    if not both and not alone:
        yield no_intervals_note([row for row, _ in compared])
        return
    samples = samplings(study, both or alone)
    images = "; ".join(
        text if len(samples) == 1 else f"{dataset}: {text}"
        for dataset, sampling in samples.items()
        for text in [sampling_text(sampling)]
    )
    drawn = f"{images}; drawn {REPLICATES:,} times, mIoU recomputed from pixel counts each time"
    if both:
        yield (
            "95 % interval (CI), for one difference at a time: allows for the choice of validation "
            f"images ({drawn}) and for other seeds (Student's t)."
        )
    if alone:
        which = "" if len(alone) == len(compared) else f" ({row_names(alone, rows)})"
        how = f" ({drawn})" if not both else ""
        yield (
            f'One seed{which}: "images ±" is half of the 95 % range under other validation '
            f"images{how}. Training again with another seed can change the difference by more than "
            f"that, so {_shows_nothing(alone, compared)}."
        )
    yield from few_images_notes(samples)


def _shows_nothing(alone: Sequence[Row], compared: Sequence[tuple[Row, Difference]]) -> str:
    """Return what differences of one seed or fold do not show. alone: their rows."""
    if len(alone) == len(compared):
        return "this table cannot show that rows differ"
    if len(alone) == 1:
        return "this difference does not show that the row differs"
    return "these differences do not show that the rows differ"


def _fold_intervals(
    study: Study,
    folds: int,
    separate_images: bool,
    rows: Sequence[Row],
    compared: Sequence[tuple[Row, Difference]],
) -> Iterable[str]:
    """Yield how intervals over folds were computed. folds: number of folds of the study.
    separate_images: whether each is scored on its own images."""
    both = [row for row, difference in compared if difference.interval is not None]
    alone = [row for row, difference in compared if difference.image_interval is not None]
    images = (
        "Folds are scored on different images, so it allows for the choice of images"
        if separate_images
        else f"All folds are scored on the same images, which are drawn {REPLICATES:,} times"
    )
    factor = "1/J + 1" if folds == 2 else f"1/J + 1/{folds - 1}"
    if not both and not alone:
        yield no_intervals_note([row for row, _ in compared])
    if both:
        yield (
            "95 % interval (CI), for one difference at a time: Student's t over the folds, each "
            "the mean over its seeds. Folds are not independent, because each image is used in all "
            f"of them, so the variance of the mean over J folds is that of a fold times {factor} "
            "instead of 1/J (Nadeau and Bengio, 2003). The seeds of a fold do not count as folds. "
            f"{images}."
        )
    if alone:
        which = "" if len(alone) == len(compared) else f" ({row_names(alone, rows)})"
        yield (
            f'One fold{which}: "images ±" is half of the 95 % range under other images of the '
            "fold. Training on other images can change the difference by more than that, so "
            f"{_shows_nothing(alone, compared)}."
        )
    resampled = [*alone, *([] if separate_images else both)]
    yield from few_images_notes(samplings(study, resampled))


def _spread(
    rows: Sequence[Row], compared: Sequence[tuple[Row, Difference]], unit: str
) -> Iterable[str]:
    """Yield how the spread over seeds or folds was estimated. unit: `seed` or `fold`."""
    pooled = [difference for _, difference in compared if difference.method == "pooled"]
    own = [(row, difference) for row, difference in compared if difference.method == "own spread"]
    if pooled:
        spreads = [difference.spread for difference in pooled if difference.spread is not None]
        low, high = min(spreads), max(spreads)
        spread = f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"
        yield (
            f"Spread of a difference over {unit}s: {spread} points, pooled over the rows "
            "with the same grid values, with extra weight for the row compared to. This assumes "
            f"that rows vary about equally over {unit}s; the ± of each row shows its own spread."
        )
    if own:
        untested = [row for row, difference in own if difference.p is None]
        several = [row for row, difference in own if difference.p is not None]
        reason = f"rows vary differently over {unit}s or are too few to pool"
        if several:
            yield f"Own spread over {unit}s instead of a pooled one, because {reason}: " + (
                f"{row_names(several, rows)}."
            )
        if untested:
            yield (
                f"No p value for {row_names(untested, rows)}: two {unit}s are tested only with a "
                f"pooled spread, and here {reason}."
            )


def _tests(differences: Sequence[Difference]) -> Iterable[str]:
    """Yield how p values were computed."""
    tested = [difference for difference in differences if difference.p is not None]
    if not tested:
        return
    count = tested[0].comparisons
    adjusted = ""
    if count > 1:
        adjusted = (
            f" and adjusted for the {count} comparisons of this study (Holm). Only p is adjusted, "
            "so an interval can exclude 0 while p is above 0.05"
        )
    yield f"p is two-sided{adjusted}."


def _smallest(differences: Sequence[Difference]) -> str:
    """Return the smallest of such differences that tests detect; empty if none is tested."""
    tested = [each for each in differences if each.p is not None]
    sizes = [each.detectable for each in tested if each.detectable is not None]
    if not sizes:
        return ""
    low, high = f"{min(sizes):.1f}", f"{max(sizes):.1f}"
    if high == "0.0":  # the seeds did not vary
        return ""
    size = low if low == high else f"{low} to {high}"
    adjustment = " and the adjustment" if tested[0].comparisons > 1 else ""
    return (
        f"{size} points (detected in 80 % of studies, given the spread measured here{adjustment})"
    )


def overall_notes(overall: Sequence[OverallDifference]) -> Iterable[tuple[str, ...]]:
    """Yield the notes on the table of differences over all cells of the grid, each followed by the
    keys of the columns it is about."""
    if overall:
        yield (
            "Mean difference: over all columns, each with equal weight; the comparisons include "
            "it. p, interaction: whether the difference is the same in all columns (F test, "
            "adjusted for these rows); below 0.05, the mean hides that columns differ.",
            "interaction",
        )
    size = _smallest([each.difference for each in overall])
    if size:
        yield f"Smallest mean difference over all columns that can be shown: {size}.", "overall"


def _gaps(study: Study, rows: Sequence[Row]) -> Iterable[str]:
    """Yield notes on differences over fewer seeds (and folds) than planned, and on missing
    intervals."""
    by_seeds: dict[tuple[tuple[Repetition, ...], bool], list[Row]] = {}
    without = []
    seeds_of = {(row.variant, row.grid_cell): set(row.miou) for row in rows}
    for row in rows:
        if row.difference is None:
            continue
        shared = row.difference.seeds
        # `--only` may leave out the row compared to; its mean is then not shown.
        their_seeds = seeds_of.get((row.compared_to, row.grid_cell), set(shared))
        differs = not set(shared) == set(row.miou) == their_seeds
        if differs or len(shared) < len(study.config.repetitions):
            by_seeds.setdefault((shared, differs), []).append(row)
        if row.difference.method is None:
            without.append(row)
    for (seeds, differs), those in by_seeds.items():
        means = "; it is not the difference between the two means shown" if differs else ""
        yield (
            f"{row_names(those, rows)}: the difference uses {_listed(seeds)}, which both rows "
            f"finished{means}."
        )
    if without and len(without) < sum(row.difference is not None for row in rows):
        yield (
            f"{row_names(without, rows)}: no interval, because per-image pixel counts are missing "
            "or were made on other images."
        )


def _listed(repetitions: Sequence[Repetition]) -> str:
    """Return the seeds, and the folds of each, such as `seeds 0, 2` or `seed 0 (folds 0, 1)`."""
    by_seed: dict[int, list[int]] = {}
    for repetition in repetitions:
        fold = fold_of(repetition)
        by_seed.setdefault(seed_of(repetition), []).extend([] if fold is None else [fold])
    parts = [
        f"{seed}" + (f" (fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))})" * bool(folds))
        for seed, folds in by_seed.items()
    ]
    return f"seed{'s' * (len(parts) > 1)} {', '.join(parts)}"


def _published(rows: Sequence[Row]) -> Iterable[str]:
    """Yield whether published differences of the same setting are inside our intervals."""
    inside: list[Row] = []
    outside: list[Row] = []
    for row in rows:
        published = own_published_difference(row)
        interval = row.difference.interval if row.difference else None
        if published is not None and interval is not None:
            (inside if interval[0] <= published <= interval[1] else outside).append(row)
    parts = [
        f"{word} the interval for {row_names(those, rows)}"
        for word, those in (("inside", inside), ("outside", outside))
        if those
    ]
    if parts:
        yield f"The published difference is {', '.join(parts)}."
