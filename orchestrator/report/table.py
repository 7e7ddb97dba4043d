"""Builds the report's tables as columns of text, independent of the output format."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.report.comparisons import OverallDifference
from orchestrator.report.rows import Row
from orchestrator.report.significance import Difference
from orchestrator.study.published import PublishedRow
from orchestrator.study.study import Study
from orchestrator.study.trial_state import TrialState

EMPTY = "-"
STALE, MIXED, INCOMPARABLE = "*", "†", "‡"


@dataclass(frozen=True)
class Column:
    """One column. drop_rank: columns with the highest rank are dropped first if the table is too
    wide; columns of rank 0 are never dropped."""

    name: str
    values: tuple[str, ...]
    numeric: bool = True
    drop_rank: int = 0


@dataclass(frozen=True)
class Table:
    """A table of columns of equal length.

    breaks: indices of the lines that begin a new section.
    published: number of lines at the end that are published rows of other methods.
    """

    columns: tuple[Column, ...]
    breaks: frozenset[int] = frozenset()
    published: int = 0

    def without_published(self) -> "Table":
        """Return the table without the published rows of other methods."""
        end = len(self.columns[0].values) - self.published
        columns = (replace(column, values=column.values[:end]) for column in self.columns)
        return Table(tuple(columns), self.breaks)

    @property
    def lines(self) -> list[tuple[str, ...]]:
        """The texts of the cells, line by line."""
        return list(zip(*(column.values for column in self.columns), strict=True))


def main_table(study: Study, rows: Sequence[Row], others: Sequence[PublishedRow]) -> Table:
    """Return the table with one line per row, sorted by grid cell, followed by the published rows
    of other methods."""
    grid_cells = list(dict.fromkeys(row.grid_cell for row in rows))
    rows = sorted(rows, key=lambda row: grid_cells.index(row.grid_cell))
    if study.config.kind == "profile":
        return _profile_table(study, rows, others)
    size = _common_size(rows)
    columns = _names(study, rows, others)
    columns += [
        _column(
            "params M",
            [_number(r.parameters_m, 2) for r in rows],
            [_number(o.parameters_m, 2) for o in others],
            drop_rank=5,
        ),
        _column(
            f"GFLOPs{size}",
            [_gflops(r.gflops) for r in rows],
            [_gflops(o.gflops) for o in others],
            drop_rank=6,
        ),
        _column("mIoU %", [_miou(row) for row in rows], others),
        _column("n", [_seeds(row) for row in rows], others, drop_rank=2),
    ]
    columns += _difference_columns(study, rows, others)
    if any(row.entered for row in rows):
        values = [_mean_and_deviation(list(row.entered.values())) for row in rows]
        columns.append(_column("entered %", values, others, drop_rank=2))
    columns += _published_columns(study, rows, others)
    columns += [
        _column(
            "best %",
            [_mean_and_deviation(list(row.best.values())) for row in rows],
            others,
            drop_rank=8,
        ),
        _column("images/s", [_number(r.images_per_second, 1) for r in rows], others, drop_rank=7),
        _column("hours", [_hours(row.hours) for row in rows], others, drop_rank=7),
    ]
    return _table(columns, rows, others)


def grid_table(study: Study, rows: Sequence[Row], others: Sequence[PublishedRow]) -> Table | None:
    """Return the table as papers lay it out: one line per variant, one column per grid cell, with
    mIoU and the difference. None if the grid has a single cell.

    Published rows of other methods are included if their `when` names an axis of the grid.
    """
    grid_cells = list(dict.fromkeys(row.grid_cell for row in rows))
    if len(grid_cells) < 2 or study.config.kind == "profile":
        return None
    labels = {row.variant: row.label for row in rows}
    by_cell = {(row.variant, row.grid_cell): row for row in rows}
    others = [other for other in others if any(axis in other.when for axis in study.config.grid)]
    columns = [Column("variant", (*labels.values(), *(o.label for o in others)), numeric=False)]
    for grid_cell in grid_cells:
        axes = next(row.axes for row in rows if row.grid_cell == grid_cell)
        cells = [by_cell.get((variant, grid_cell)) for variant in labels]
        values = [EMPTY if row is None else _cell_text(row) for row in cells]
        columns.append(_column(", ".join(grid_cell), values, others))
        published = [_number(None if row is None else row.published, 1) for row in cells]
        theirs = [_number(o.miou if applies_to(o, axes) else None, 1) for o in others]
        if any(text != EMPTY for text in (*published, *theirs)):
            elsewhere = any(row is not None and row.published_elsewhere for row in cells)
            name = f"published ({setting_text(study)})" if elsewhere else "published"
            columns.append(_column(name, published, theirs, drop_rank=1))
    breaks = frozenset({len(labels)} if others else ())
    return Table(tuple(columns), breaks, len(others))


def overall_table(study: Study, rows: Sequence[Row], overall: Sequence[OverallDifference]) -> Table:
    """Return the table of differences over all cells of the grid: one line per variant, with the
    difference in each cell, their mean, and whether they differ."""
    labels = {row.variant: row.label for row in rows}
    differences = [each.difference for each in overall]
    columns = [Column("variant", tuple(each.label for each in overall), numeric=False)]
    if len({each.base for each in overall}) > 1:
        bases = tuple(labels.get(each.base, each.base) for each in overall)
        columns.append(Column("compared to", bases, numeric=False))
    for cell in dict.fromkeys(cell for each in overall for cell in each.by_cell):
        values = tuple(_signed2(each.by_cell.get(cell)) for each in overall)
        columns.append(Column(", ".join(cell), values))
    columns += [
        Column("mean difference [95\u00a0% CI]", tuple(map(difference_text, differences))),
        Column("p, adjusted", tuple(_p(each.p_adjusted) for each in differences)),
        Column("p, interaction", tuple(_p(each.interaction_p) for each in overall), drop_rank=1),
    ]
    return Table(tuple(columns))


def _difference_columns(
    study: Study, rows: Sequence[Row], others: Sequence[PublishedRow]
) -> list[Column]:
    """Return the columns of differences and their p values; none if no row is compared."""
    if study.config.kind != "table" or not any(row.base for row in rows):
        return []
    bases = {row.base for row in rows if row.base}
    labels = {name: entry.label or name for name, entry in study.config.variants.items()}
    to = f" to {labels[next(iter(bases))]}" if len(bases) == 1 else ""
    methods = {row.difference.method for row in rows if row.difference}
    interval = " [95\u00a0% CI]" if methods & {"pooled", "own spread"} else ""
    columns = []
    if len(bases) > 1:
        compared = [labels[row.base] if row.base else EMPTY for row in rows]
        columns.append(_column("compared to", compared, others, numeric=False, drop_rank=2))
    texts = [_difference(row) for row in rows]
    p_values = [_p(row.difference.p_adjusted if row.difference else None) for row in rows]
    return [
        *columns,
        _column(f"difference{to}{interval}", texts, others, drop_rank=1),
        _column("p, adjusted", p_values, others, drop_rank=3),
    ]


def _published_columns(
    study: Study, rows: Sequence[Row], others: Sequence[PublishedRow]
) -> list[Column]:
    """Return the columns of published values, those of another setting apart."""
    columns = []
    own = [None if row.published_elsewhere else row.published for row in rows]
    elsewhere = [row.published if row.published_elsewhere else None for row in rows]
    apart = bool(study.config.report.published_setting) and not any(own)
    theirs = [_number(other.miou, 1) for other in others]
    none = [EMPTY for _ in others]
    if any(own) or (any(other.miou for other in others) and not apart):
        values = [_number(value, 1) for value in own]
        columns.append(_column("published %", values, theirs, drop_rank=1))
        differences = [
            None if row.published_elsewhere else row.published_difference for row in rows
        ]
        if any(value is not None for value in differences):
            signed = [_signed(value) for value in differences]
            columns.append(_column("published diff.", signed, others, drop_rank=4))
    if any(elsewhere) or (apart and any(other.miou for other in others)):
        name = f"published % ({setting_text(study)})"
        values = [_number(value, 1) for value in elsewhere]
        columns.append(_column(name, values, theirs if apart else none, drop_rank=4))
    return columns


def _profile_table(study: Study, rows: Sequence[Row], others: Sequence[PublishedRow]) -> Table:
    """Return the table of parameters and FLOPs, with the published ones and the differences."""
    references = [row.reference for row in rows]
    columns = _names(study, rows, others)
    for name, digits, ours, theirs, published in (
        (
            "params M",
            2,
            [row.parameters_m for row in rows],
            [each.parameters_m if each else None for each in references],
            [other.parameters_m for other in others],
        ),
        (
            "GFLOPs",
            1,
            [row.gflops for row in rows],
            [each.gflops if each else None for each in references],
            [other.gflops for other in others],
        ),
    ):
        differences = [
            f"{100 * (own / other - 1):+.2f} %" if own and other else EMPTY
            for own, other in zip(ours, theirs, strict=True)
        ]
        columns += [
            _column(name, [_number(value, digits) for value in ours], others),
            _column(
                "published",
                [_number(value, digits) for value in theirs],
                [_number(value, digits) for value in published],
            ),
            _column("difference", differences, others),
        ]
    return _table(columns, rows, others)


def _names(study: Study, rows: Sequence[Row], others: Sequence[PublishedRow]) -> list[Column]:
    labels = [row.label + _marks(row) for row in rows]
    columns = [_column("variant", labels, [o.label for o in others], numeric=False)]
    for axis in study.config.grid:
        values = [str(row.axes[axis]) for row in rows]
        theirs = [_axis_text(other.when.get(axis)) for other in others]
        columns.append(_column(axis.split(".")[-1], values, theirs, numeric=False))
    return columns


def _column(
    name: str,
    values: Sequence[str],
    others: Sequence[str] | Sequence[PublishedRow],
    numeric: bool = True,
    drop_rank: int = 0,
) -> Column:
    """Return a column. others: texts for the published rows; for the rows themselves, the column is
    empty."""
    texts = [other if isinstance(other, str) else EMPTY for other in others]
    return Column(name, (*values, *texts), numeric, drop_rank)


def _table(columns: Sequence[Column], rows: Sequence[Row], others: Sequence[PublishedRow]) -> Table:
    """Return the table without empty columns, except those of rank 0."""
    kept = [c for c in columns if c.drop_rank == 0 or any(value != EMPTY for value in c.values)]
    breaks = {i for i in range(1, len(rows)) if rows[i].grid_cell != rows[i - 1].grid_cell}
    if others:
        breaks.add(len(rows))
    return Table(tuple(kept), frozenset(breaks), len(others))


def _marks(row: Row) -> str:
    marks = (STALE if row.stale else "") + (MIXED if is_mixed(row) else "")
    return f"\u00a0{marks}" if marks else ""


def is_mixed(row: Row) -> bool:
    """Whether the seeds of a row differ in data, code or precision."""
    return any(len(row.run_values(name)) > 1 for name in ("data", "code", "precision"))


def _common_size(rows: Sequence[Row]) -> str:
    sizes = {row.cost.size for row in rows if row.cost is not None}
    if len(sizes) != 1:
        return ""
    ((height, width),) = sizes
    return f" at {height}x{width}"


def _seeds(row: Row) -> str:
    scored, requested = len(row.miou), len(row.results)
    return str(scored) if scored == requested else f"{scored} of {requested}"


def _miou(row: Row) -> str:
    """Return mean and standard deviation; if no seed has a score, the states of the seeds."""
    return _mean_and_deviation(list(row.miou.values())) if row.miou else _unscored(row) or EMPTY


def _unscored(row: Row) -> str:
    """Return the states of the seeds without a score, such as `1 failed, 2 missing`; without a
    count if all seeds of the row have the same state."""
    states = Counter(
        r.state for r in row.results if r.miou is None and r.state is not TrialState.FINISHED
    )
    if len(states) == 1 and not row.miou:
        return next(iter(states))
    return ", ".join(f"{count} {state}" for state, count in states.items())


def _mean_and_deviation(values: Sequence[float]) -> str:
    if not values:
        return EMPTY
    mean = f"{statistics.fmean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.1f}"


def _difference(row: Row, with_interval: bool = True) -> str:
    if row.incomparable:
        return INCOMPARABLE
    if row.difference is None:
        return EMPTY
    difference = row.difference
    text = difference_text(difference) if with_interval else _signed2(difference.mean)
    return f"{text}\u00a0{MIXED}" if row.mixed_difference else text


def difference_text(difference: Difference) -> str:
    """Return a difference with its interval, or with half the width of its interval over images
    only."""
    text = _signed2(difference.mean)
    if difference.interval is not None:
        low, high = difference.interval
        return f"{text} [{_signed2(low)}, {_signed2(high)}]"
    if difference.image_interval is not None:
        low, high = difference.image_interval
        return f"{text} (images\u00a0±{(high - low) / 2:.2f})"
    return text


def _cell_text(row: Row) -> str:
    """Return mean, standard deviation and difference, and the states of seeds without a score."""
    text = _miou(row)
    if row.difference is not None or row.incomparable:
        text += f" ({_difference(row, with_interval=False)})"
    unscored = _unscored(row)
    if unscored and row.miou:
        text += f", {unscored}"
    return text + _marks(row)


def _p(value: float | None) -> str:
    if value is None:
        return EMPTY
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _hours(value: float | None) -> str:
    if value is None:
        return EMPTY
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _gflops(value: float | None) -> str:
    """Small networks on small images have far less than 1 GFLOP."""
    return EMPTY if value is None else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _number(value: float | None, digits: int) -> str:
    return EMPTY if value is None else f"{value:.{digits}f}"


def _signed(value: float | None) -> str:
    if value is None:
        return EMPTY
    text = f"{value:+.1f}"
    return text if float(text) else "0.0"  # no sign for zero


def _signed2(value: float | None) -> str:
    """Return a difference in points with two decimals, so that an interval's sign is visible."""
    if value is None:
        return EMPTY
    text = f"{value:+.2f}"
    return text if float(text) else "0.00"  # no sign for zero


def _axis_text(value: Any) -> str:
    if value is None:
        return EMPTY
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def setting_text(study: Study) -> str:
    """Return the setting of the published values, such as `cityscapes, resnet18`."""
    return ", ".join(map(_axis_text, study.config.report.published_setting.values()))


def applies_to(other: PublishedRow, axes: Mapping[str, Any]) -> bool:
    """Whether a published row is for the grid cell with these axes."""
    return all(
        axis not in axes
        or str(axes[axis]) in map(str, value if isinstance(value, list | tuple) else [value])
        for axis, value in other.when.items()
    )
