"""The table as columns of texts, before any format: what stands in which cell."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.report.rows import Row
from orchestrator.study.published import PublishedRow
from orchestrator.study.study import Study
from orchestrator.study.trial_state import TrialState

NOTHING = "-"
STALE, MIXED, INCOMPARABLE = "*", "†", "‡"


@dataclass(frozen=True)
class Column:
    """rank: what goes first where there is no room for all columns; 0 always stays."""

    name: str
    values: tuple[str, ...]
    numeric: bool = True
    rank: int = 0


@dataclass(frozen=True)
class Table:
    """A table: its columns, all of one length. breaks: the lines above which a new part begins;
    others: how many of the last lines were published by others."""

    columns: tuple[Column, ...]
    breaks: frozenset[int] = frozenset()
    others: int = 0

    def without_others(self) -> "Table":
        """The same without what was published by others."""
        end = len(self.columns[0].values) - self.others
        columns = (replace(column, values=column.values[:end]) for column in self.columns)
        return Table(tuple(columns), self.breaks)

    @property
    def lines(self) -> list[tuple[str, ...]]:
        """The cells, line by line."""
        return list(zip(*(column.values for column in self.columns), strict=True))


def main_table(study: Study, rows: Sequence[Row], others: Sequence[PublishedRow]) -> Table:
    """A line for each variant, one cell of the grid after the other, then the other methods'."""
    places = list(dict.fromkeys(row.place for row in rows))
    rows = sorted(rows, key=lambda row: places.index(row.place))
    if study.config.kind == "profile":
        return _profile_sheet(study, rows, others)
    compare_to, size = study.config.compare_to, _common_size(rows)
    columns = _names(study, rows, others)
    columns += [
        _column(
            "params M",
            [_number(r.parameters_m, 2) for r in rows],
            [_number(o.parameters_m, 2) for o in others],
            rank=5,
        ),
        _column(
            f"GFLOPs{size}",
            [_gflops(r.gflops) for r in rows],
            [_gflops(o.gflops) for o in others],
            rank=6,
        ),
        _column("mIoU %", [_miou(row) for row in rows], others),
        _column("n", [_seeds(row) for row in rows], others, rank=2),
    ]
    if compare_to and study.config.kind == "table":
        columns += [
            _column(
                f"vs {compare_to} (95\u00a0%)", [_difference(row) for row in rows], others, rank=1
            ),
            _column("p (Holm)", [_p(row.corrected) for row in rows], others, rank=3),
        ]
    if any(row.entered for row in rows):
        values = [_spread(list(row.entered.values())) for row in rows]
        columns.append(_column("by hand %", values, others, rank=2))
    if any(row.published is not None for row in rows) or any(o.miou for o in others):
        published = [_number(row.published, 1) for row in rows]
        columns.append(
            _column("published %", published, [_number(o.miou, 1) for o in others], rank=1)
        )
        if compare_to and any(row.published_difference is not None for row in rows):
            signed = [_signed(row.published_difference) for row in rows]
            columns.append(_column("published diff.", signed, others, rank=4))
    columns += [
        _column("best %", [_spread(list(row.best.values())) for row in rows], others, rank=8),
        _column("images/s", [_number(r.images_per_second, 1) for r in rows], others, rank=7),
        _column("hours", [_hours(row.hours) for row in rows], others, rank=7),
    ]
    return _sheet(columns, rows, others)


def grid_table(study: Study, rows: Sequence[Row], others: Sequence[PublishedRow]) -> Table | None:
    """The table as a paper lays it out: variants down, the cells of the grid across, mIoU and the
    difference in each, and other methods where they are for one. None where there is one cell."""
    places = list(dict.fromkeys(row.place for row in rows))
    if len(places) < 2 or study.config.kind == "profile":
        return None
    labels = {row.variant: row.label for row in rows}
    by_cell = {(row.variant, row.place): row for row in rows}
    others = [other for other in others if any(axis in other.when for axis in study.config.grid)]
    columns = [Column("variant", (*labels.values(), *(o.label for o in others)), numeric=False)]
    for place in places:
        axes = next(row.axes for row in rows if row.place == place)
        cells = [by_cell.get((variant, place)) for variant in labels]
        values = [NOTHING if row is None else _grid_cell(row) for row in cells]
        columns.append(_column(", ".join(place), values, others))
        published = [_number(None if row is None else row.published, 1) for row in cells]
        theirs = [_number(o.miou if applies_to(o, axes) else None, 1) for o in others]
        if any(text != NOTHING for text in (*published, *theirs)):
            columns.append(_column("published", published, theirs, rank=1))
    breaks = frozenset({len(labels)} if others else ())
    return Table(tuple(columns), breaks, len(others))


def _profile_sheet(study: Study, rows: Sequence[Row], others: Sequence[PublishedRow]) -> Table:
    """Parameters and FLOPs beside the published ones, and by how much they differ."""
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
            f"{100 * (own / other - 1):+.2f} %" if own and other else NOTHING
            for own, other in zip(ours, theirs, strict=True)
        ]
        columns += [
            _column(name, [_number(value, digits) for value in ours], others),
            _column(
                "published",
                [_number(value, digits) for value in theirs],
                [_number(value, digits) for value in published],
            ),
            _column("off by", differences, others),
        ]
    return _sheet(columns, rows, others)


def _names(study: Study, rows: Sequence[Row], others: Sequence[PublishedRow]) -> list[Column]:
    labels = [row.label + _marks(row) for row in rows]
    columns = [_column("variant", labels, [o.label for o in others], numeric=False)]
    for axis in study.config.grid:
        values = [str(row.axes[axis]) for row in rows]
        theirs = [_stated(other.when.get(axis)) for other in others]
        columns.append(_column(axis.split(".")[-1], values, theirs, numeric=False))
    return columns


def _column(
    name: str,
    values: Sequence[str],
    others: Sequence[str] | Sequence[PublishedRow],
    numeric: bool = True,
    rank: int = 0,
) -> Column:
    """others: what stands in the other methods' lines; nothing where they are given themselves."""
    texts = [other if isinstance(other, str) else NOTHING for other in others]
    return Column(name, (*values, *texts), numeric, rank)


def _sheet(columns: Sequence[Column], rows: Sequence[Row], others: Sequence[PublishedRow]) -> Table:
    """The sheet, without columns that say nothing."""
    kept = [c for c in columns if c.rank == 0 or any(value != NOTHING for value in c.values)]
    breaks = {i for i in range(1, len(rows)) if rows[i].place != rows[i - 1].place}
    if others:
        breaks.add(len(rows))
    return Table(tuple(kept), frozenset(breaks), len(others))


def _marks(row: Row) -> str:
    marks = (STALE if row.stale else "") + (MIXED if is_mixed(row) else "")
    return f"\u00a0{marks}" if marks else ""


def is_mixed(row: Row) -> bool:
    """Whether its seeds were trained on different data, with different code or in different
    precision."""
    return any(len(row.kinds(what)) > 1 for what in ("data", "code", "precision"))


def _common_size(rows: Sequence[Row]) -> str:
    sizes = {row.cost.size for row in rows if row.cost is not None}
    if len(sizes) != 1:
        return ""
    ((height, width),) = sizes
    return f" at {width}x{height}"


def _seeds(row: Row) -> str:
    done, asked = len(row.miou), len(row.results)
    return str(done) if done == asked else f"{done} of {asked}"


def _miou(row: Row) -> str:
    """Mean and spread; without any seed's figure, why there is none."""
    return _spread(list(row.miou.values())) if row.miou else _without_figure(row) or NOTHING


def _without_figure(row: Row) -> str:
    """How many seeds have no figure, and why: `1 failed, 2 missing`; plain where all are alike."""
    states = Counter(
        r.state for r in row.results if r.miou is None and r.state is not TrialState.FINISHED
    )
    if len(states) == 1 and not row.miou:
        return next(iter(states))
    return ", ".join(f"{count} {state}" for state, count in states.items())


def _spread(values: Sequence[float]) -> str:
    if not values:
        return NOTHING
    mean = f"{statistics.fmean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.1f}"


def _difference(row: Row, with_interval: bool = True) -> str:
    if row.incomparable:
        return INCOMPARABLE
    if row.difference is None:
        return NOTHING
    text = _signed(row.difference.mean)
    if row.difference.interval is not None and with_interval:
        low, high = row.difference.interval
        text += f" [{_signed(low)}, {_signed(high)}]"
    return f"{text}\u00a0{MIXED}" if row.unlike else text


def _grid_cell(row: Row) -> str:
    """Mean, spread and difference; which seeds have no figure."""
    text = _miou(row)
    if row.difference is not None or row.incomparable:
        text += f" ({_difference(row, with_interval=False)})"
    without = _without_figure(row)
    if without and row.miou:
        text += f", {without}"
    return text + _marks(row)


def _p(value: float | None) -> str:
    if value is None:
        return NOTHING
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _hours(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _gflops(value: float | None) -> str:
    """Small networks on small pictures take far less than one."""
    return NOTHING if value is None else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def _signed(value: float | None) -> str:
    if value is None:
        return NOTHING
    text = f"{value:+.1f}"
    return text if float(text) else "0.0"  # a zero has no sign


def _stated(value: Any) -> str:
    if value is None:
        return NOTHING
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def applies_to(other: PublishedRow, axes: Mapping[str, Any]) -> bool:
    """Whether another method's row is for this cell of the grid."""
    return all(
        axis not in axes
        or str(axes[axis]) in map(str, value if isinstance(value, list | tuple) else [value])
        for axis, value in other.when.items()
    )
