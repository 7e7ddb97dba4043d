"""The chart of accuracy against multiply-adds."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from orchestrator.report.charts.drawing import INK, WIDTH, add_grid, row_color, style

_MAX_LABELS = 24
_NARROW_SHARE = 0.1  # minimum length of the cost axis, as a share of the highest cost
_WIDE_RATIO = 8  # ratio of highest to lowest cost from which the axis is logarithmic


@dataclass(frozen=True)
class Point:
    """One model in the accuracy chart.

    gflops: multiply-adds / 1e9. miou: in percent. row: index of its variant; None for another
    method. deviation: standard deviation of mIoU over seeds, in points. comparable: whether its
    mIoU may be compared with that of the others.
    """

    label: str
    gflops: float
    miou: float
    kind: Literal["measured", "published"]
    row: int | None
    deviation: float = 0.0
    comparable: bool = True


def draw_accuracy(points: Sequence[Point], title: str = "") -> Figure:
    """Return a figure of mIoU against multiply-adds.

    Measured models are filled, with their standard deviation over seeds as bars; published ones are
    hollow. A line joins the comparable measured models that no other one beats in both; of many
    models, only these are named.
    """
    with style():
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        axes = figure.subplots()
        front = pareto([each for each in points if each.kind == "measured" and each.comparable])
        if len(front) > 1:
            axes.plot(
                [point.gflops for point in front],
                [point.miou for point in front],
                color=INK,
                alpha=0.45,
                linewidth=0.9,
                linestyle="--",
                zorder=1,
            )
        for point in points:
            measured = point.kind == "measured"
            color = row_color(point.row)
            axes.errorbar(
                point.gflops,
                point.miou,
                yerr=point.deviation or None,
                fmt="o" if measured else "D",
                markersize=6,
                color=color,
                markerfacecolor=color if measured else "none",
                capsize=2,
                linewidth=0.9,
            )
        costs = [point.gflops for point in points]
        if max(costs) > _WIDE_RATIO * min(costs) > 0:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("GFLOPs (multiply-adds / 1e9)")
        axes.set_ylabel("mIoU %")
        if title:
            axes.set_title(title, loc="left", fontsize=9)
        add_grid(axes)
        axes.margins(x=0.18, y=0.16)
        low, high = axes.get_xlim()
        least = _NARROW_SHARE * max(costs)
        if high - low < least:  # or networks of nearly equal cost would look far apart
            middle = (low + high) / 2
            axes.set_xlim(middle - least / 2, middle + least / 2)
        # A published value of a measured row has the row's color and needs no label.
        named = [point for point in points if point.kind == "measured" or point.row is None]
        _label(figure, points, front, named if len(named) <= _MAX_LABELS else front[-_MAX_LABELS:])
        return figure


def pareto(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other point beats in both, by increasing multiply-adds."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.gflops, -point.miou)):
        if not front or point.miou > front[-1].miou:
            front.append(point)
    return front


def _label(
    figure: Figure, points: Sequence[Point], front: Sequence[Point], named: Sequence[Point]
) -> None:
    """Label the points where a label covers no other label, marker, bar or line, and stays within
    the axes; with a thin line to the point if the label is not next to it."""
    axes = figure.axes[0]
    figure.draw_without_rendering()
    scale = figure.dpi / 72
    inside = axes.get_window_extent()
    taken = []
    for point in points:
        x, y = axes.transData.transform((point.gflops, point.miou))
        bar = axes.transData.transform((point.gflops, point.miou + point.deviation))[1] - y
        reach = max(4.5 * scale, bar)
        taken.append(Bbox.from_extents(x - 4.5 * scale, y - reach, x + 4.5 * scale, y + reach))
    taken += _line_boxes([axes.transData.transform((p.gflops, p.miou)) for p in front], 2 * scale)
    for point in sorted(named, key=lambda point: -point.miou):
        x, y = axes.transData.transform((point.gflops, point.miou))
        text = axes.annotate(
            point.label,
            (point.gflops, point.miou),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=8,
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": INK,
                "alpha": 0.5,
                "linewidth": 0.5,
                "shrinkA": 0,
                "shrinkB": 4,
            },
        )
        size = text.get_window_extent()
        width, height = size.width, size.height
        best = None
        for dx, dy in _offsets():
            left = x + dx * scale - (width if dx < 0 else width / 2 if dx == 0 else 0)
            box = Bbox.from_extents(
                left, y + dy * scale - height / 2, left + width, y + dy * scale + height / 2
            )
            overlap = sum(_overlap(box, other) for other in taken)
            outside = width * height - _overlap(box, inside)
            cost = overlap + 4 * outside
            if best is None or cost < best[0] - 1e-6:
                best = cost, dx, dy, box
            if cost < 1:
                break
        assert best is not None
        _, dx, dy, box = best
        text.set_horizontalalignment("right" if dx < 0 else "center" if dx == 0 else "left")
        text.set_position((dx, dy))
        if abs(dx) <= 8 and abs(dy) <= 9 and text.arrow_patch is not None:
            text.arrow_patch.set_visible(False)
        taken.append(box)


def _line_boxes(corners: Sequence[NDArray[np.float64]], size: float) -> list[Bbox]:
    """Return small boxes along a line, in pixels."""
    boxes = []
    for start, end in pairwise(corners):
        count = max(2, int(np.hypot(*(end - start)) / (2 * size)))
        for x, y in np.linspace(start, end, count):
            boxes.append(Bbox.from_extents(x - size / 2, y - size / 2, x + size / 2, y + size / 2))
    return boxes


def _offsets() -> list[tuple[float, float]]:
    """Return the offsets of a label from its point, in font points, the nearest first."""
    near = [(8.0, 0.0), (-8.0, 0.0), (0.0, 10.0), (0.0, -10.0), (7.0, 8.0), (7.0, -8.0)]
    near += [(-7.0, 8.0), (-7.0, -8.0)]
    far = [
        (side * across, up * rise)
        for rise in range(12, 140, 6)
        for across in (8.0, 20.0, 40.0)
        for side in (1, -1)
        for up in (1, -1)
    ]
    return [*near, *((float(dx), float(dy)) for dx, dy in far)]


def _overlap(first: Bbox, second: Bbox) -> float:
    """Return the area that two boxes share."""
    width = min(first.x1, second.x1) - max(first.x0, second.x0)
    height = min(first.y1, second.y1) - max(first.y0, second.y0)
    return max(0.0, width) * max(0.0, height)
