"""Forest plots: differences with their intervals, one line each."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from orchestrator.report.charts.drawing import (
    GAIN,
    INK,
    LOSS,
    NEUTRAL,
    PAPER,
    WIDTH,
    add_grid,
    style,
)

Limits = tuple[float, float]

_MAX_LABEL = 32
_MAX_COMPACT_LABEL = 24
_MAX_AXIS = 58  # characters of a line below the axis; more do not fit


@dataclass(frozen=True)
class ForestLine:
    """One difference, in points.

    mean: None if there is none; then only label and text are shown. interval: None if there is
    none. seeds: the difference of each seed. published: the published difference. significant:
    whether it is clear of 0, and drawn in color, with a filled point and a thick bar. text: shown
    at the right.
    """

    label: str
    mean: float | None
    interval: Limits | None
    seeds: tuple[float, ...]
    published: float | None
    significant: bool
    text: str = ""


def limits_of(lines: Sequence[ForestLine]) -> Limits:
    """Return the range of the horizontal axis that shows all lines, and 0."""
    values = [0.0]
    for line in lines:
        values += [*([] if line.mean is None else [line.mean]), *line.seeds, *(line.interval or ())]
        values += [] if line.published is None else [line.published]
    margin = 0.05 * (max(values) - min(values)) or 1.0
    return min(values) - margin, max(values) + margin


def draw_forest(lines: Sequence[ForestLine], limits: Limits, axis: str, title: str = "") -> Figure:
    """Return a forest plot with label and text above each line, which leaves its whole width to the
    data. axis: label of the horizontal axis."""
    with style():
        figure = Figure(figsize=(WIDTH, 0.75 + 0.42 * len(lines)), layout="constrained")
        axes = figure.subplots()
        for index, line in enumerate(lines):
            _draw_line(axes, line, -float(index), seeds_below=0.2)
            across = blended_transform_factory(axes.transAxes, axes.transData)
            name = _shortened(line.label, _MAX_LABEL)
            for x, text, side in ((0.0, name, "left"), (1.0, line.text, "right")):
                axes.text(
                    x,
                    0.2 - index,
                    text,
                    transform=across,
                    ha=side,
                    va="bottom",
                    fontsize=8.5,
                    # Hides the grid behind the text, but no line of data.
                    bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.8},
                    zorder=1,
                )
        axes.set_ylim(-len(lines) + 0.55, 0.75)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        _finish(axes, limits, axis, title)
        return figure


def draw_compact_forest(
    lines: Sequence[ForestLine], limits: Limits, axis: str, title: str = ""
) -> Figure:
    """Return a forest plot with the labels at the left, for many lines with short labels."""
    with style():
        figure = Figure(figsize=(WIDTH, 0.75 + 0.2 * len(lines)), layout="constrained")
        axes = figure.subplots()
        for index, line in enumerate(lines):
            _draw_line(axes, line, -float(index), seeds_below=0.3)
        axes.set_ylim(-len(lines) + 0.4, 0.6)
        names = [_shortened(line.label, _MAX_COMPACT_LABEL) for line in lines]
        axes.set_yticks([-index for index in range(len(lines))], names)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        _finish(axes, limits, axis, title)
        return figure


def _draw_line(axes: Axes, line: ForestLine, y: float, seeds_below: float) -> None:
    if line.mean is None:
        return
    color = NEUTRAL
    if line.significant:
        color = GAIN if line.mean > 0 else LOSS
    # Not by color alone: prints may be gray, and some readers do not tell the colors apart.
    if line.interval is not None:
        width = 2.6 if line.significant else 1.0
        axes.plot(line.interval, (y, y), color=color, linewidth=width, solid_capstyle="butt")
    face = color if line.significant else PAPER
    axes.plot(line.mean, y, "o", color=color, markersize=6, markerfacecolor=face)
    if len(line.seeds) > 1:
        heights = [y - seeds_below] * len(line.seeds)
        axes.plot(
            line.seeds, heights, "o", color=color, markersize=2.6, markeredgewidth=0, alpha=0.8
        )
    if line.published is not None:
        axes.plot(
            line.published,
            y,
            "D",
            color=INK,
            markerfacecolor="none",
            markersize=5.5,
            markeredgewidth=0.9,
        )


def label_against(label: str, other: str) -> str:
    """Return `LABEL vs. OTHER`. If that is too long, the label loses its beginning, because rows
    often differ in what they add."""
    versus = f" vs. {_shortened(other, _MAX_LABEL // 2)}"
    room = _MAX_LABEL - len(versus)
    return (label if len(label) <= room else f"…{label[1 - room :]}") + versus


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _finish(axes: Axes, limits: Limits, axis: str, title: str) -> None:
    axes.axvline(0, color=INK, linewidth=0.7, alpha=0.7, zorder=0)
    axes.set_xlim(*limits)
    lines = [part for line in axis.splitlines() for part in textwrap.wrap(line, _MAX_AXIS)]
    # The middle of the axis is right of that of the figure, so long texts end at its end.
    long = max(map(len, lines)) > _MAX_AXIS // 2
    axes.set_xlabel("\n".join(lines), loc="right" if long else "center")
    add_grid(axes, "x")
    if title:
        axes.set_title(title, loc="left", fontsize=9)
