"""The figures of a report: differences, samples of a search, accuracy against FLOPs, classes and
learning curves.

Each is drawn once, for the page and as a PDF file for a paper.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.figure import Figure

from orchestrator.report.charts.accuracy import Point, draw_accuracy
from orchestrator.report.charts.curves import Curve, draw_curves
from orchestrator.report.charts.drawing import Series
from orchestrator.report.charts.forest import (
    ForestLine,
    draw_compact_forest,
    draw_forest,
    label_against,
    limits_of,
)
from orchestrator.report.charts.samples import SampledSeries, draw_samples
from orchestrator.report.rows.results import Result
from orchestrator.report.rows.row import Row
from orchestrator.report.tables.cells import INCOMPARABLE, p_text, row_difference, signed, unscored
from orchestrator.report.tables.class_differences import HeatMap, heat_map
from orchestrator.report.tables.columns import (
    own_published_difference,
    row_label,
    variants_compared_to,
)
from orchestrator.report.tables.search import best_rows, objective, tuned_rows
from orchestrator.report.tables.table import GridCell, cell_titles
from orchestrator.study.study import Study

Kind = Literal["differences", "samples", "accuracy", "classes", "miou", "loss"]
History = Callable[[Result, str], Series]

MIOU, LOSS = "val/miou", "train/loss"
# The loss of rows with auxiliary heads sums several terms; this one is comparable between rows.
MAIN_LOSS = "train/loss/main"
_MAX_CLASSES = 40


@dataclass(frozen=True)
class ReportFigure:
    """One figure. title: of its grid cell; empty if there is only one. caption: what it shows."""

    kind: Kind
    title: str
    figure: Figure
    caption: str

    @property
    def text(self) -> str:
        """The text in place of the figure, such as for screen readers."""
        return f"{self.caption}: {self.title}" if self.title else self.caption

    @property
    def name(self) -> str:
        """The name of its file, without the extension."""
        return re.sub(r"[^\w.+-]+", "-", f"{self.kind}-{self.title}".strip("- "))


def draw_figures(
    study: Study, rows: Sequence[Row], history: History, maps: Mapping[GridCell, HeatMap]
) -> list[ReportFigure]:
    """Return the figures of all grid cells.

    history: returns a trial's metric over epochs. maps: IoU by class of each grid cell.
    """
    if study.config.kind == "profile":
        return []
    samples, rows = list(_samples(study, rows)), best_rows(study, rows)
    return [
        *_differences(study, rows),
        *samples,
        *_accuracy(study, rows),
        *_classes(rows, maps),
        *_curves(study, rows, history),
    ]


def class_maps(study: Study, rows: Sequence[Row]) -> dict[GridCell, HeatMap]:
    """Return IoU by class of each grid cell that has per-image counts."""
    maps = {cell: heat_map(study, rows, cell) for cell in cell_titles(rows)}
    return {cell: each for cell, each in maps.items() if each is not None}


def _differences(study: Study, rows: Sequence[Row]) -> Iterator[ReportFigure]:
    """Yield the forest plots of the differences, all with the same horizontal axis."""
    compared_to = variants_compared_to(rows)
    panels: dict[GridCell, list[ForestLine]] = {}
    for row in rows:
        if row.compared_to:
            line = _line(study, row, name_compared_to=len(compared_to) > 1)
            panels.setdefault(row.grid_cell, []).append(line)
    lines = [line for panel in panels.values() for line in panel]
    if not any(line.mean is not None for line in lines):
        return
    name = row_label(study.config, compared_to[0]) if len(compared_to) == 1 else ""
    axis = f"mIoU points above {name}" if name else "difference of mIoU in points"
    titles = cell_titles(rows)
    for cell, panel in panels.items():
        figure = draw_forest(panel, limits_of(lines), axis, titles[cell])
        yield ReportFigure("differences", titles[cell], figure, "Differences between rows")


def _line(study: Study, row: Row, name_compared_to: bool) -> ForestLine:
    label = row.label
    if name_compared_to:
        label = label_against(label, row_label(study.config, row.compared_to))
    difference = row.difference
    if difference is None:
        text = INCOMPARABLE if row.incomparable else unscored(row)
        return ForestLine(label, None, None, (), None, False, text)
    text = signed(difference.mean)
    if difference.interval is not None:
        text = row_difference(row, difference)
    if difference.p_adjusted is not None:
        p = p_text(difference.p_adjusted)
        text += f", p {p}" if p.startswith("<") else f", p = {p}"
    return ForestLine(
        label=label,
        mean=difference.mean,
        interval=difference.interval,
        seeds=tuple(difference.by_seed.values()),
        published=own_published_difference(row),
        significant=difference.significant,
        text=f"{text}, n = {len(difference.seeds)}",
    )


def _samples(study: Study, rows: Sequence[Row]) -> Iterator[ReportFigure]:
    """Yield the scores of a search's samples by each sampled key, of each grid cell."""
    if study.config.sampling is None:
        return
    score, tuned = objective(study, rows), tuned_rows(study, rows)
    for cell, title in cell_titles(rows).items():
        series = [
            SampledSeries(
                each.samples[0].label,
                _index(study, each.samples[0]),
                {
                    row.sample.number: (row.sample.values, each.scores[row.sample.number])
                    for row in each.samples
                    if row.sample is not None and row.sample.number in each.scores
                },
                each.best.sample.number if each.best and each.best.sample else None,
            )
            for each in tuned
            if each.samples[0].grid_cell == cell and each.scores
        ]
        if series:
            figure = draw_samples(series, study.config.sample, score.name, title)
            yield ReportFigure("samples", title, figure, "Scores of the samples")


def _accuracy(study: Study, rows: Sequence[Row]) -> Iterator[ReportFigure]:
    """Yield mIoU against FLOPs of each grid cell with two or more models of different cost.

    Published values are only drawn if they are certainly of the same setting: those of other data
    would compress the others into a line.
    """
    for cell, title in cell_titles(rows).items():
        points = [
            Point(
                f"{row.label} {INCOMPARABLE}" if row.incomparable else row.label,
                row.gflops,
                float(np.mean(list(row.miou.values()))),
                "measured",
                _index(study, row),
                float(np.std(list(row.miou.values()), ddof=1)) if len(row.miou) > 1 else 0.0,
                comparable=not row.incomparable,
            )
            for row in rows
            if row.grid_cell == cell and row.gflops is not None and row.miou
        ]
        points += [
            Point(row.label, row.gflops, row.published, "published", _index(study, row))
            for row in rows
            if row.grid_cell == cell and row.gflops is not None and row.published is not None
            if study.config.report.published_setting and not row.published_elsewhere
        ]
        if len({point.gflops for point in points}) > 1:
            figure = draw_accuracy(points, title)
            yield ReportFigure("accuracy", title, figure, "mIoU against FLOPs")


def _classes(rows: Sequence[Row], maps: Mapping[GridCell, HeatMap]) -> Iterator[ReportFigure]:
    """Yield the differences of the last row of each grid cell by class, the largest gain first."""
    titles = cell_titles(rows)
    panels = {}
    for cell, each in maps.items():
        compared_to = next((line.label for line in each.lines if line.is_compared_to), None)
        line = each.lines[-1]
        classes = [c for c in line.classes if c.mean is not None and not math.isnan(c.mean)]
        if compared_to is None or line.is_compared_to or not classes or len(classes[0].seeds) < 2:
            continue
        classes.sort(key=lambda entry: -abs(entry.mean or 0.0))
        shown = sorted(classes[:_MAX_CLASSES], key=lambda entry: -(entry.mean or 0.0))
        lines = [
            ForestLine(c.name, c.mean, c.interval, c.seeds, None, c.significant) for c in shown
        ]
        axis = f"IoU points, {line.label} minus {compared_to}"
        if len(shown) < len(classes):
            axis += f"\n{len(shown)} of {len(classes)} classes, those with the largest differences"
        panels[cell] = lines, axis
    everything = [line for lines, _ in panels.values() for line in lines]
    for cell, (lines, axis) in panels.items():
        figure = draw_compact_forest(lines, limits_of(everything), axis, titles[cell])
        yield ReportFigure("classes", titles[cell], figure, "IoU by class")


def _curves(study: Study, rows: Sequence[Row], history: History) -> Iterator[ReportFigure]:
    """Yield mIoU and loss over epochs of each grid cell; nothing until a trial has two epochs."""
    kinds: tuple[tuple[Kind, str, str], ...] = (
        ("miou", MIOU, "mIoU %"),
        ("loss", LOSS, "loss (main term)"),
    )
    for cell, title in cell_titles(rows).items():
        for kind, metric, name in kinds:
            curves = []
            for row in rows:
                if row.grid_cell == cell and (seeds := _seeds(row, metric, history)):
                    curves.append(Curve(row.label, _index(study, row), seeds))
            if curves:
                heading = f"{title}: {name}" if title else name
                figure = draw_curves(curves, heading, logarithmic=kind == "loss")
                yield ReportFigure(kind, title, figure, f"{name} over epochs")


def _seeds(row: Row, metric: str, history: History) -> tuple[Series, ...]:
    """Return the series of the row's seeds with a score, or of all seeds while none has one."""
    results = row.finished or row.results
    series = []
    for result in results:
        has_terms = result.run is not None and MAIN_LOSS in result.run.metrics
        points = history(result, MAIN_LOSS if metric == LOSS and has_terms else metric)
        if len(points) > 1:
            series.append(points)
    return tuple(series)


def _index(study: Study, row: Row) -> int:
    return list(study.config.variants).index(row.variant)
