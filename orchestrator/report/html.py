"""The report as one HTML page that needs nothing else: no script, no style sheet, no server."""

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
    colour,
    draw_accuracy,
    draw_curves,
    sparkline,
)
from orchestrator.report.notes import Notes
from orchestrator.report.results import Result
from orchestrator.report.rows import Row
from orchestrator.report.table import INCOMPARABLE, Table, applies_to
from orchestrator.study.published import PublishedRow
from orchestrator.study.study import Study

METRICS = {"train/loss": "loss", "val/miou": "mIoU %", "learning_rate": "learning rate"}
PICTURES = {
    "comparison": "Where the models differ most",
    "features": "Feature maps before and after the flows",
}
_PICTURE_WIDTH = 1600
History = Callable[[Result, str], Series]


def render_page(
    study: Study,
    rows: Sequence[Row],
    others: Sequence[PublishedRow],
    sheets: Sequence[tuple[str, Table]],
    notes: Notes,
    history: History,
    address: Callable[[Result], str],
    viewing_instructions: str,
    pictures: Mapping[str, bytes],
) -> str:
    """The whole page. sheets: with their titles. history: the points of a trial's metric; address:
    of its run in MLflow. pictures: PNG files of what the models predict, by kind."""
    numbers = {variant: index for index, variant in enumerate(study.config.variants)}
    places = list(dict.fromkeys(row.place for row in rows))
    results = [result for row in rows for result in row.results]
    return _template().render(
        study=study.config,
        description=Markup(MarkdownIt("js-default").render(study.config.description)),
        sheets=sheets,
        notes=notes,
        finished=sum(result.miou is not None for result in results),
        results=results,
        incomparable=any(row.incomparable for row in rows),
        profile=study.config.kind == "profile",
        accuracy=[a for place in places if (a := _accuracy(rows, others, place, numbers))],
        heat_maps=[m for place in places if (m := heat_map(study, rows, place))],
        curves=[c for place in places if (c := _curves(rows, place, numbers, history))],
        image_lists=[i for place in places if (i := image_list(study, rows, place))],
        sparkline=lambda result, metric: sparkline(history(result, metric)),
        last=lambda result, metric: next((y for _, y in reversed(history(result, metric))), None),
        colour=lambda result: colour(numbers[result.trial.variant]),
        metrics=METRICS,
        address=address,
        viewing_instructions=viewing_instructions,
        pictures=[
            (PICTURES.get(kind, kind), _embedded(content)) for kind, content in pictures.items()
        ],
        study_text=study.resolved or study.text,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
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


def _embedded(png: bytes) -> str:
    """A picture as an address that holds it, no wider than a page shows it."""
    with Image.open(io.BytesIO(png)) as image:
        picture = image.convert("RGB")
    picture.thumbnail((_PICTURE_WIDTH, 8 * _PICTURE_WIDTH))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _accuracy(
    rows: Sequence[Row],
    others: Sequence[PublishedRow],
    place: tuple[str, ...],
    numbers: Mapping[str, int],
) -> tuple[str, Markup] | None:
    """The cell of the grid and its chart; None where there are not two points to compare."""
    points = []
    for row in rows:
        if row.place != place:
            continue
        number = numbers[row.variant]
        if row.gflops is not None and row.miou:
            values = list(row.miou.values())
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
            mean = float(np.mean(values))
            label = f"{row.label} {INCOMPARABLE}" if row.incomparable else row.label
            points.append(Point(label, row.gflops, mean, "ours", number, spread))
        gflops = (row.reference.gflops if row.reference else None) or row.gflops
        if row.published is not None and gflops is not None:
            points.append(Point(row.label, gflops, row.published, "published", number))
    axes = next(row.axes for row in rows if row.place == place)
    points += [
        Point(other.label, other.gflops, other.miou, "published", None)
        for other in others
        if other.gflops is not None and other.miou is not None and applies_to(other, axes)
    ]
    # Markup: made by this project, from numbers and labels that are escaped.
    return (", ".join(place), Markup(draw_accuracy(points))) if len(points) > 1 else None


def _curves(
    rows: Sequence[Row], place: tuple[str, ...], numbers: Mapping[str, int], history: History
) -> tuple[str, Markup] | None:
    """The cell of the grid and its panels; None before any trial has two epochs."""
    panels: dict[str, list[Curve]] = {}
    for metric, name in METRICS.items():
        for row in rows:
            if row.place != place:
                continue
            for result in row.results:
                points = history(result, metric)
                if len(points) > 1:
                    curve = Curve(row.label, numbers[row.variant], points)
                    panels.setdefault(name, []).append(curve)
    return (", ".join(place), Markup(draw_curves(panels))) if panels else None
