"""The study's table: a row for each variant and cell of the grid, published values beside measured.

The figure of a row is the last checkpoint's; the best one stands apart, because it was chosen on
the validation split.
"""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from orchestrator.cells import Cell, ModelCost
from orchestrator.ledger import Record
from orchestrator.study import Plan


@dataclass(frozen=True)
class Row:
    """One row; mIoU values in percent, one for each finished seed. missing: trials without a
    finished run. delta: to `compare_to` in the same cell, None where either is missing."""

    label: str
    axes: dict[str, Any]
    cost: ModelCost
    last: tuple[float, ...]
    best: tuple[float, ...]
    delta: float | None
    published: float | None
    published_delta: float | None
    missing: tuple[str, ...]
    stale: bool


def build_rows(
    plan: Plan,
    cells: Sequence[Cell],
    records: Mapping[str, Record],
) -> list[Row]:
    """Group `cells` by variant and place in the grid. records: of finished trials, by name."""
    groups: dict[tuple[str, tuple[Any, ...]], list[Cell]] = {}
    for cell in cells:
        place = tuple(map(str, cell.trial.axes.values()))
        groups.setdefault((cell.trial.variant, place), []).append(cell)

    def figures(group: Sequence[Cell], metric: str) -> dict[int, float]:
        return {
            cell.trial.experiment.seed: 100 * records[cell.trial.name].metrics[metric]
            for cell in group
            if cell.trial.name in records and metric in records[cell.trial.name].metrics
        }

    rows = []
    for (variant, place), group in groups.items():
        first = group[0].trial
        reference_group = groups.get((plan.study.compare_to or "", place), [])
        last = figures(group, "val/miou")
        delta = published_delta = None
        if variant != plan.study.compare_to and reference_group:
            base = figures(reference_group, "val/miou")
            shared = sorted(last.keys() & base.keys())
            if shared:
                delta = statistics.fmean(last[seed] - base[seed] for seed in shared)
            base_reference = reference_group[0].trial.reference
            if first.reference and base_reference:
                published_delta = first.reference.miou - base_reference.miou
        rows.append(
            Row(
                label=first.label,
                axes=first.axes,
                cost=group[0].cost,
                last=tuple(last.values()),
                best=tuple(figures(group, "val/best_miou").values()),
                delta=delta,
                published=first.reference.miou if first.reference else None,
                published_delta=published_delta,
                missing=tuple(c.trial.name for c in group if c.trial.name not in records),
                stale=any(
                    records[c.trial.name].code != c.code for c in group if c.trial.name in records
                ),
            )
        )
    return rows


def header(plan: Plan, rows: Sequence[Row]) -> list[str]:
    """The columns' names, in the order of `cells`."""
    sizes = sorted({row.cost.size for row in rows})
    size = f"at {sizes[0][1]}x{sizes[0][0]}" if len(sizes) == 1 else ""
    compared = f"vs {plan.study.compare_to}" if plan.study.compare_to else "difference"
    axes = [axis.split(".")[-1] for axis in plan.study.grid]
    return [
        "variant",
        *axes,
        "params M",
        f"GFLOPs {size}",
        "mIoU %",
        compared,
        "best %",
        "published %",
        "published diff.",
    ]


def cells(row: Row) -> list[str]:
    """One row's texts. A dash stands for what there is none of."""
    return [
        row.label + (" *" if row.stale else ""),
        *(str(value) for value in row.axes.values()),
        f"{row.cost.parameters_m:.2f}",
        f"{row.cost.gflops:.2f}",
        _mean(row.last) + (f" ({len(row.missing)} missing)" if row.missing and row.last else ""),
        "-" if row.delta is None else f"{row.delta:+.1f}",
        _mean(row.best),
        "-" if row.published is None else f"{row.published:.1f}",
        "-" if row.published_delta is None else f"{row.published_delta:+.1f}",
    ]


def footnotes(plan: Plan, rows: Sequence[Row]) -> list[str]:
    """What a reader must know to believe the table no further than it goes."""
    notes = [
        "mIoU: last checkpoint, validation split, whole image, single scale; "
        "best: the epoch chosen on that same split.",
    ]
    seeds = len(plan.study.seeds)
    if seeds == 1:
        notes.append("One seed: differences of this size may be chance.")
    else:
        notes.append(f"Mean ± standard deviation over n seeds of {seeds}; differences are paired.")
    sources = {
        variant.reference.source
        for variant in plan.study.variants.values()
        if variant.reference and variant.reference.source
    }
    if sources:
        notes.append(f"Published: {'; '.join(sorted(sources))}.")
    if any(row.stale for row in rows):
        notes.append("* Trained by another version of the code: compare with care.")
    return notes


def as_rich(plan: Plan, rows: Sequence[Row]) -> Table:
    """The table for a terminal."""
    table = Table(title=plan.study.study, title_justify="left", title_style="bold")
    left = 1 + len(plan.study.grid)
    for index, name in enumerate(header(plan, rows)):
        is_text = index < left
        table.add_column(name, justify="left" if is_text else "right", no_wrap=is_text)
    for row in rows:
        table.add_row(*cells(row))
    return table


def as_markdown(plan: Plan, rows: Sequence[Row]) -> str:
    """The table as GitHub markdown, with its footnotes."""
    names = header(plan, rows)
    left = 1 + len(plan.study.grid)
    rule = [":--" if index < left else "--:" for index in range(len(names))]
    lines = [names, rule, *(cells(row) for row in rows)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = "\n".join(f"- {note}" for note in footnotes(plan, rows))
    return f"# {plan.study.study}\n\n{table}\n\n{notes}\n"


def as_csv(plan: Plan, rows: Sequence[Row]) -> str:
    """The table as CSV, one line a row, texts as in the terminal."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header(plan, rows))
    writer.writerows(cells(row) for row in rows)
    return buffer.getvalue()


def _mean(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.1f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values):.1f} (n={len(values)})"
