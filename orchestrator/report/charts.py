"""The report's charts as SVG that uses the page's text color, so that they fit dark mode, too."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

Series = Sequence[tuple[float, float]]

# Colors that are distinguishable with color vision deficiencies (Okabe and Ito, 2008), without
# black, and with yellow last because it has little contrast on white.
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#999999", "#f0e442")
_INK = "#010203"  # replaced by the page's text color
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
}
_MAX_POINTS = 200
_MAX_LABELS = 24


@dataclass(frozen=True)
class Curve:
    """One trial's line in a panel. row: index of its variant, which selects the color."""

    label: str
    row: int
    points: Series


@dataclass(frozen=True)
class Point:
    """One model in the accuracy chart.

    gflops: multiply-adds / 1e9. miou: in percent. row: index of its variant; None for another
    method. deviation: standard deviation of mIoU over seeds, in points.
    """

    label: str
    gflops: float
    miou: float
    kind: Literal["measured", "published"]
    row: int | None
    deviation: float = 0.0


def draw_curves(panels: Mapping[str, Sequence[Curve]]) -> str:
    """Return an SVG with one panel per metric, by its name, over epochs. Each trial has a line, in
    the color of its variant."""
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(10.5, 2.9), layout="constrained")
        for axes, (name, curves) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
        ):
            named: set[int] = set()
            for curve in curves:
                label = None if curve.row in named else curve.label
                named.add(curve.row)
                points = thinned(curve.points)
                style = "-" if curve.row < len(PALETTE) else "--"
                axes.plot(
                    *zip(*points, strict=True),
                    style,
                    color=row_color(curve.row),
                    linewidth=1.1,
                    alpha=0.75,
                    label=label,
                )
            axes.set_title(name, loc="left", fontsize=9)
            axes.set_xlabel("epoch")
            axes.grid(alpha=0.15, color=_INK)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        if 1 < len(labels) <= 2 * len(PALETTE):
            figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
        return _svg(figure, "training curves")


def draw_accuracy(points: Sequence[Point]) -> str:
    """Return an SVG of mIoU against multiply-adds: measured models are filled, with their standard
    deviation over seeds as error bars, published ones are hollow."""
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.subplots()
        for kind, marker in (("measured", "o"), ("published", "D")):
            shown = [point for point in points if point.kind == kind]
            for index, point in enumerate(shown):
                axes.errorbar(
                    point.gflops,
                    point.miou,
                    yerr=point.deviation or None,
                    fmt=marker,
                    markersize=6,
                    color=row_color(point.row),
                    markerfacecolor=row_color(point.row) if kind == "measured" else "none",
                    capsize=2,
                    linewidth=0.8,
                    label=kind if index == 0 else None,
                )
        axes.set_xlabel("GFLOPs (multiply-adds / 1e9)")
        axes.set_ylabel("mIoU %")
        axes.grid(alpha=0.15, color=_INK)
        axes.margins(x=0.12, y=0.12)
        # A published value of a measured row has the row's color and needs no label.
        named = [point for point in points if point.kind == "measured" or point.row is None]
        if len(named) <= _MAX_LABELS:
            _label(figure, axes, named)
        if len({point.kind for point in points}) > 1:
            figure.legend(loc="outside upper right", ncols=2, fontsize=8)
        return _svg(figure, "mIoU against FLOPs")


def sparkline(points: Series, width: int = 90, height: int = 22) -> str:
    """Return the `points` attribute of an SVG polyline that fills a box of `width` x `height`
    pixels; empty for fewer than two points."""
    if len(points) < 2:
        return ""
    thin = thinned(points, 60)
    low, high = min(y for _, y in thin), max(y for _, y in thin)
    first, last = thin[0][0], thin[-1][0]
    extent = (high - low) or 1.0
    return " ".join(
        f"{(x - first) / (last - first) * (width - 2) + 1:.1f},"
        f"{(high - y) / extent * (height - 4) + 2:.1f}"
        for x, y in thin
    )


def thinned(points: Series, count: int = _MAX_POINTS) -> Series:
    """Return about `count` of the points, evenly spaced and including the last one."""
    step = -(-len(points) // count)
    return [*points[: -1 if points else 0 : step], *points[-1:]] if step > 1 else points


def row_color(row: int | None) -> str:
    """Return the color of the variant with this index; the text color for None."""
    return _INK if row is None else PALETTE[row % len(PALETTE)]


def _label(figure: Figure, axes: Axes, points: Sequence[Point]) -> None:
    """Add labels next to the points, shifted up or down to avoid overlaps."""
    figure.draw_without_rendering()
    taken: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda point: (point.gflops, point.miou)):
        x, y = axes.transData.transform((point.gflops, point.miou))
        shift = next(
            step
            for step in (12 * ((k + 1) // 2) * (-1) ** k for k in range(2 * len(points) + 1))
            if all(abs(y + step - other) > 11 or abs(x - at) > 150 for at, other in taken)
        )
        taken.append((x, y + shift))
        axes.annotate(
            point.label,
            (point.gflops, point.miou),
            xytext=(8, shift * 0.72 - 3),
            textcoords="offset points",
            fontsize=7.5,
            color=row_color(point.row),
        )


def _svg(figure: Figure, title: str) -> str:
    figure.patch.set_visible(False)  # the page shows through
    for axes in figure.axes:
        axes.patch.set_visible(False)
    buffer = io.StringIO()
    canvas = FigureCanvasSVG(figure)
    canvas.print_svg(buffer, metadata={"Date": None, "Creator": None, "Title": title})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor")
