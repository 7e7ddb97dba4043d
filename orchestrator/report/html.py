"""The report as one self-contained HTML page: no scripts, no external files, no server."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache

import numpy as np
from jinja2 import Environment, PackageLoader, Template, select_autoescape
from markdown_it import MarkdownIt
from markupsafe import Markup
from PIL import Image

from orchestrator.report.breakdown import heat_map, image_list
from orchestrator.report.charts import (
    Curve,
    Point,
    Series,
    draw_accuracy,
    draw_curves,
    row_color,
    sparkline,
)
from orchestrator.report.notes import Notes
from orchestrator.report.results import Result
from orchestrator.report.rows import Row
from orchestrator.report.table import INCOMPARABLE, Table, applies_to
from orchestrator.study.published import PublishedRow
from orchestrator.study.study import Study

METRICS = {"train/loss": "loss", "val/miou": "mIoU %", "learning_rate": "learning rate"}
FIGURE_TITLES = {
    "comparison": "Where the models differ most",
    "features": "Feature maps before and after the flows",
}
_FIGURE_WIDTH = 1600  # pixels
History = Callable[[Result, str], Series]


def render_page(
    study: Study,
    rows: Sequence[Row],
    others: Sequence[PublishedRow],
    tables: Sequence[tuple[str, Table]],
    notes: Notes,
    history: History,
    run_url: Callable[[Result], str],
    mlflow_hint: str,
    figures: Mapping[str, bytes],
) -> str:
    """Return the HTML of the page.

    tables: with their titles. history: returns a trial's metric over epochs. run_url: returns the
    URL of a trial's run in MLflow. mlflow_hint: how to open MLflow. figures: PNG files, by kind.
    """
    indices = {variant: index for index, variant in enumerate(study.config.variants)}
    grid_cells = list(dict.fromkeys(row.grid_cell for row in rows))
    results = [result for row in rows for result in row.results]
    return _template().render(
        study=study.config,
        description=Markup(MarkdownIt("js-default").render(study.config.description)),
        tables=tables,
        notes=notes,
        scored=sum(result.miou is not None for result in results),
        results=results,
        incomparable=any(row.incomparable for row in rows),
        profile=study.config.kind == "profile",
        accuracy=[a for cell in grid_cells if (a := _accuracy(rows, others, cell, indices))],
        heat_maps=[m for cell in grid_cells if (m := heat_map(study, rows, cell))],
        curves=[c for cell in grid_cells if (c := _curves(rows, cell, indices, history))],
        image_lists=[i for cell in grid_cells if (i := image_list(study, rows, cell))],
        sparkline=lambda result, metric: sparkline(history(result, metric)),
        last=lambda result, metric: next((y for _, y in reversed(history(result, metric))), None),
        color=lambda result: row_color(indices[result.trial.variant]),
        metrics=METRICS,
        run_url=run_url,
        mlflow_hint=mlflow_hint,
        figures=[(FIGURE_TITLES.get(kind, kind), _data_url(png)) for kind, png in figures.items()],
        study_text=study.resolved or study.text,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("orchestrator.report", "templates"),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


def _data_url(png: bytes) -> str:
    """Return a figure as a data URL of a JPEG, scaled down to the width of the page."""
    with Image.open(io.BytesIO(png)) as image:
        figure = image.convert("RGB")
    figure.thumbnail((_FIGURE_WIDTH, 8 * _FIGURE_WIDTH))
    buffer = io.BytesIO()
    figure.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _accuracy(
    rows: Sequence[Row],
    others: Sequence[PublishedRow],
    grid_cell: tuple[str, ...],
    indices: Mapping[str, int],
) -> tuple[str, Markup] | None:
    """Return a grid cell's name and chart; None if there are fewer than two points."""
    points = []
    for row in rows:
        if row.grid_cell != grid_cell:
            continue
        index = indices[row.variant]
        if row.gflops is not None and row.miou:
            values = list(row.miou.values())
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            mean = float(np.mean(values))
            label = f"{row.label} {INCOMPARABLE}" if row.incomparable else row.label
            points.append(Point(label, row.gflops, mean, "measured", index, deviation))
        gflops = (row.reference.gflops if row.reference else None) or row.gflops
        if row.published is not None and gflops is not None:
            points.append(Point(row.label, gflops, row.published, "published", index))
    axes = next(row.axes for row in rows if row.grid_cell == grid_cell)
    points += [
        Point(other.label, other.gflops, other.miou, "published", None)
        for other in others
        if other.gflops is not None and other.miou is not None and applies_to(other, axes)
    ]
    # Safe as Markup: matplotlib escapes the labels.
    return (", ".join(grid_cell), Markup(draw_accuracy(points))) if len(points) > 1 else None


def _curves(
    rows: Sequence[Row], grid_cell: tuple[str, ...], indices: Mapping[str, int], history: History
) -> tuple[str, Markup] | None:
    """Return a grid cell's name and training curves; None until a trial has two epochs."""
    panels: dict[str, list[Curve]] = {}
    for metric, name in METRICS.items():
        for row in rows:
            if row.grid_cell != grid_cell:
                continue
            for result in row.results:
                points = history(result, metric)
                if len(points) > 1:
                    curve = Curve(row.label, indices[row.variant], points)
                    panels.setdefault(name, []).append(curve)
    return (", ".join(grid_cell), Markup(draw_curves(panels))) if panels else None
