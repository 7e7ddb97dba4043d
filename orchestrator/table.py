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
    protocol: str


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

    protocol = plan.study.report.protocol
    metric = "val/miou" if protocol is None else f"eval/{protocol}/miou"
    rows = []
    for (variant, place), group in groups.items():
        first = group[0].trial
        reference_group = groups.get((plan.study.compare_to or "", place), [])
        last = figures(group, metric)
        delta = published_delta = None
        if variant != plan.study.compare_to and reference_group:
            base = figures(reference_group, metric)
            shared = sorted(last.keys() & base.keys())
            if shared:
                delta = statistics.fmean(last[seed] - base[seed] for seed in shared)
            published, base_published = (
                first.published_miou,
                reference_group[0].trial.published_miou,
            )
            if published is not None and base_published is not None:
                published_delta = published - base_published
        rows.append(
            Row(
                label=first.label,
                axes=first.axes,
                cost=group[0].cost,
                last=tuple(last.values()),
                best=tuple(figures(group, "val/best_miou").values()),
                delta=delta,
                published=first.published_miou,
                published_delta=published_delta,
                missing=tuple(c.trial.name for c in group if c.trial.name not in records),
                protocol=protocol or first.experiment.evaluation.protocol,
                stale=any(
                    records[c.trial.name].code != c.code for c in group if c.trial.name in records
                ),
            )
        )
    return rows


def columns(plan: Plan, rows: Sequence[Row]) -> dict[str, list[str]]:
    """The table by its columns' names: one text a row, a dash for what there is none of.

    The published columns are left out where nothing was published.
    """
    sizes = sorted({row.cost.size for row in rows})
    size = f" at {sizes[0][1]}x{sizes[0][0]}" if len(sizes) == 1 else ""
    table = {"variant": [row.label + (" *" if row.stale else "") for row in rows]}
    for axis in plan.study.grid:
        table[axis.split(".")[-1]] = [str(row.axes[axis]) for row in rows]
    table["params M"] = [f"{row.cost.parameters_m:.2f}" for row in rows]
    table[f"GFLOPs{size}"] = [f"{row.cost.gflops:.2f}" for row in rows]
    table["mIoU %"] = [
        _mean(row.last) + (f" ({len(row.missing)} missing)" if row.missing and row.last else "")
        for row in rows
    ]
    if plan.study.compare_to:
        table[f"vs {plan.study.compare_to}"] = [_signed(row.delta) for row in rows]
    table["best %"] = [_mean(row.best) for row in rows]
    if any(row.published is not None for row in rows):
        table["published %"] = [
            "-" if row.published is None else f"{row.published:.1f}" for row in rows
        ]
        if plan.study.compare_to:
            table["published diff."] = [_signed(row.published_delta) for row in rows]
    return table


def footnotes(plan: Plan, rows: Sequence[Row]) -> list[str]:
    """What a reader must know to believe the table no further than it goes."""
    protocols = sorted({row.protocol for row in rows})
    notes = [
        f"mIoU: last checkpoint, validation split, protocol {', '.join(protocols)}; "
        "best: the epoch chosen on that same split.",
    ]
    if len(protocols) > 1:
        notes.append("Rows are scored under DIFFERENT PROTOCOLS and must not be compared.")
    seeds = len(plan.study.seeds)
    if seeds == 1:
        notes.append("One seed: differences of this size may be chance.")
    else:
        notes.append(f"Mean ± standard deviation over n seeds of {seeds}; differences are paired.")
    sources = {
        trial.reference.source
        for trial in plan.trials
        if trial.reference and trial.reference.source
    }
    if sources:
        notes.append(f"Published: {'; '.join(sorted(sources))}.")
    if any(row.stale for row in rows):
        notes.append("* Trained by another version of the code: compare with care.")
    return notes


def as_rich(plan: Plan, rows: Sequence[Row]) -> Table:
    """The table for a terminal."""
    table = Table(title=plan.study.study, title_justify="left", title_style="bold")
    texts = columns(plan, rows)
    left = 1 + len(plan.study.grid)
    for index, name in enumerate(texts):
        is_text = index < left
        table.add_column(name, justify="left" if is_text else "right", no_wrap=is_text)
    for line in zip(*texts.values(), strict=True):
        table.add_row(*line)
    return table


def as_markdown(plan: Plan, rows: Sequence[Row]) -> str:
    """The table as GitHub markdown, with its footnotes."""
    texts = columns(plan, rows)
    left = 1 + len(plan.study.grid)
    rule = [":--" if index < left else "--:" for index in range(len(texts))]
    lines = [list(texts), rule, *zip(*texts.values(), strict=True)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = "\n".join(f"- {note}" for note in footnotes(plan, rows))
    return f"# {plan.study.study}\n\n{table}\n\n{notes}\n"


def as_csv(plan: Plan, rows: Sequence[Row]) -> str:
    """The table as CSV, one line a row, texts as in the terminal."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    texts = columns(plan, rows)
    writer.writerow(texts)
    writer.writerows(zip(*texts.values(), strict=True))
    return buffer.getvalue()


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f}"


def _mean(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.1f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values):.1f} (n={len(values)})"
