"""The report as one self-contained HTML page: no scripts, no external files, no server."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache

from jinja2 import Environment, PackageLoader, Template, select_autoescape
from markdown_it import MarkdownIt
from markupsafe import Markup
from PIL import Image

from orchestrator.report.charts.drawing import as_svg, row_color, sparkline
from orchestrator.report.charts.figures import LOSS, MIOU, History, Kind, ReportFigure
from orchestrator.report.notes.report_notes import Notes
from orchestrator.report.rows.image_differences import image_list
from orchestrator.report.rows.results import Result
from orchestrator.report.rows.row import Row
from orchestrator.report.tables.cells import hours_text
from orchestrator.report.tables.class_differences import HeatMap
from orchestrator.report.tables.columns import (
    own_published_difference,
    row_label,
    setting_text,
    variants_compared_to,
)
from orchestrator.report.tables.table import GridCell, Table, cell_titles
from orchestrator.study.study import Study

SPARKLINES = {LOSS: "loss", MIOU: "mIoU"}
FIGURE_TITLES = {
    "comparison": "Images where the mIoU of the models differs most",
    "features": "Feature maps before and after the flows",
}
_FIGURE_WIDTH = 1600  # pixels


def render_page(
    study: Study,
    rows: Sequence[Row],
    tables: Sequence[tuple[str, Table]],
    notes: Notes,
    figures: Sequence[ReportFigure],
    maps: Mapping[GridCell, HeatMap],
    history: History,
    run_url: Callable[[Result], str],
    mlflow_hint: str,
    drawings: Mapping[str, bytes],
) -> str:
    """Return the HTML of the page.

    tables: with their titles. maps: IoU by class of each grid cell. history: returns a trial's
    metric over epochs. run_url: returns the URL of a trial's run in MLflow. mlflow_hint: how to
    open MLflow. drawings: PNG files of the study's run, by kind.
    """
    indices = {variant: index for index, variant in enumerate(study.config.variants)}
    titles = cell_titles(rows)
    compare_to = study.config.compare_to if study.config.kind == "table" else None
    results = [result for row in rows for result in row.results]

    def charts(*kinds: Kind) -> list[Markup]:
        # Safe as Markup: matplotlib escapes the labels.
        return [Markup(as_svg(f.figure, f.text)) for f in figures if f.kind in kinds]

    return _template().render(
        study=study.config,
        description=Markup(MarkdownIt("js-default").render(study.config.description)),
        tables=[(title, table.without_axes()) for title, table in tables],
        notes=notes,
        scored=sum(result.miou is not None for result in results),
        results=results,
        incomparable=any(row.incomparable for row in rows),
        profile=study.config.kind == "profile",
        charts=charts,
        compared_to_label=row_label(study.config, compare_to) if compare_to else "",
        compared_to=[row_label(study.config, each) for each in variants_compared_to(rows)],
        published_setting=setting_text(study.config),
        several_seeds=len(study.config.repetitions) > 1,
        repetitions=_repetitions(study),
        any_published=any(own_published_difference(row) is not None for row in rows),
        any_interval=any(row.difference and row.difference.interval for row in rows),
        one_repetition=[
            row
            for row in rows
            if row.difference is not None and row.difference.interval is None
            if len(row.difference.seeds) == 1
        ],
        any_differences=any(each.has_differences for each in maps.values()),
        heat_maps=[(titles[cell], each) for cell, each in maps.items()],
        image_lists=[
            (titles[cell], images) for cell in titles if (images := image_list(study, rows, cell))
        ],
        sparkline=lambda result, metric: sparkline(history(result, metric)),
        last=lambda result, metric: next((y for _, y in reversed(history(result, metric))), None),
        color=lambda result: row_color(indices[result.trial.variant]),
        metrics=SPARKLINES,
        hours=hours_text,
        run_url=run_url,
        mlflow_hint=mlflow_hint,
        drawings=[
            (FIGURE_TITLES.get(kind, kind), _data_url(png)) for kind, png in drawings.items()
        ],
        study_text=study.resolved or study.text,
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _repetitions(study: Study) -> str:
    """Return what the scores of a row are means over."""
    if study.config.fold_count is None:
        return "seeds"
    return "seeds and folds" if len(study.config.seeds) > 1 else "folds"


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("orchestrator.report.documents", "templates"),
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
