"""The chart of a search's samples: the score by each sampled key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from orchestrator.report.charts.drawing import INK, WIDTH, add_grid, row_color, style
from orchestrator.study.sampling import RangeConfig

_PANEL_HEIGHT = 2.1  # inches
_LONGEST_CHOICE = 14  # characters of a tick label


@dataclass(frozen=True)
class SampledSeries:
    """The samples of one row: values and score by the sample's number, and the best one's number.

    row: index of its variant.
    """

    label: str
    row: int
    samples: Mapping[int, tuple[Mapping[str, Any], float]]
    best: int | None


def draw_samples(
    series: Sequence[SampledSeries],
    ranges: Mapping[str, RangeConfig],
    score: str,
    title: str = "",
) -> Figure:
    """Return a figure with one panel for each sampled key: score over the value, one color for each
    row, the best sample of a row in a ring."""
    with style():
        height = _PANEL_HEIGHT * len(ranges) + 0.2 + 0.18 * len(series)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        panels = figure.subplots(len(ranges), squeeze=False)[:, 0]
        for axes, (key, limits) in zip(panels, ranges.items(), strict=True):
            _draw_panel(axes, key, limits, series)
            axes.set_ylabel(score)
        if title:
            panels[0].set_title(title, loc="left")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(2, len(series)))
    return figure


def _draw_panel(axes: Axes, key: str, limits: RangeConfig, series: Sequence[SampledSeries]) -> None:
    add_grid(axes)
    for index, each in enumerate(series):
        shift = (index - (len(series) - 1) / 2) * 0.5 / len(series)
        points = {
            number: (_position(values[key], limits, shift), score)
            for number, (values, score) in each.samples.items()
        }
        horizontal, vertical = zip(*points.values(), strict=True)
        color = row_color(each.row)
        axes.scatter(horizontal, vertical, s=14, color=color, label=each.label, zorder=2)
        if each.best in points:
            x, y = points[each.best]
            axes.scatter([x], [y], s=70, facecolors="none", edgecolors=INK, linewidths=0.9)
    axes.set_xlabel(key)
    if limits.choice is not None:
        axes.set_xticks(range(len(limits.choice)), [_tick(value) for value in limits.choice])
        axes.set_xlim(-0.5, len(limits.choice) - 0.5)
    elif limits.log is not None:
        axes.set_xscale("log")
        # The default formatters write math.
        axes.xaxis.set_major_formatter(LogFormatter())
        axes.xaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False))


def _position(value: Any, limits: RangeConfig, shift: float) -> float:
    """Return the horizontal position of a value; those of a choice are spread by row."""
    if limits.choice is not None:
        return limits.choice.index(value) + shift
    return float(value)


def _tick(value: Any) -> str:
    text = str(value.get("name", value)) if isinstance(value, dict) else str(value)
    return text if len(text) <= _LONGEST_CHOICE else f"{text[:_LONGEST_CHOICE]}…"
