"""Learning curves: the mean over seeds of each row, with the range of the seeds as a band."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from matplotlib.transforms import blended_transform_factory

from orchestrator.report.charts.drawing import (
    PALETTE,
    WIDTH,
    Series,
    add_grid,
    row_color,
    spread,
    style,
    thinned,
)

_MAX_ROWS = 12  # more have no labels
_MAX_LABEL = 26


@dataclass(frozen=True)
class Curve:
    """One row's curves. row: index of its variant, which selects the color. seeds: one series over
    epochs for each seed."""

    label: str
    row: int
    seeds: tuple[Series, ...]


def draw_curves(curves: Sequence[Curve], name: str, logarithmic: bool = False) -> Figure:
    """Return a figure of a metric over epochs. The mean is over the epochs that all seeds of a row
    have, so that its steps are never due to a change of seeds. logarithmic: whether the axis is, if
    all values are above 0."""
    with style():
        figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        axes = figure.subplots()
        ends = []
        for curve in curves:
            mean, low, high = _band(curve.seeds)
            logarithmic = logarithmic and min(low) > 0
            color, line = row_color(curve.row), "-" if curve.row < len(PALETTE) else "--"
            epochs, values = zip(*mean, strict=True)
            axes.plot(epochs, values, line, color=color, linewidth=1.3)
            if len(curve.seeds) > 1:
                axes.fill_between(epochs, low, high, color=color, alpha=0.18, linewidth=0)
            ends.append((curve.label, color, epochs[-1], values[-1]))
        if logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        last = max(end[2] for end in ends)
        axes.set_xlim(min(1.0, last), last)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_title(name, loc="left", fontsize=9)
        add_grid(axes)
        if len(ends) <= _MAX_ROWS:
            # The final positions of the axes are needed to keep the labels apart.
            figure.draw_without_rendering()
            bottom, top = axes.get_ylim()
            height = axes.get_window_extent().height * 72 / figure.dpi
            to_unit = axes.transScale.transform_point if logarithmic else None
            units = []
            for *_, value in ends:
                if to_unit is None:
                    units.append((value - bottom) / (top - bottom))
                else:
                    low_y, high_y, y = (to_unit((1.0, each))[1] for each in (bottom, top, value))
                    units.append((y - low_y) / (high_y - low_y))
            across = blended_transform_factory(axes.transAxes, axes.transAxes)
            for unit, moved, (label, color, *_) in zip(
                units, spread(units, 10.5 / height, 0.0, 1.0), ends, strict=True
            ):
                text = label if len(label) <= _MAX_LABEL else label[: _MAX_LABEL - 1] + "…"
                axes.plot(
                    (1.0, 1.035),
                    (unit, moved),
                    color=color,
                    linewidth=1.3,
                    transform=across,
                    clip_on=False,
                )
                axes.text(1.045, moved, text, transform=across, va="center", fontsize=8)
        return figure


def _band(seeds: Sequence[Series]) -> tuple[Series, list[float], list[float]]:
    """Return the mean over seeds, and the lowest and the highest seed, by epoch."""
    by_epoch = [dict(series) for series in seeds]
    shared = sorted(set.intersection(*(set(values) for values in by_epoch)))
    series = thinned([(epoch, epoch) for epoch in shared])
    epochs = [epoch for epoch, _ in series]
    values = [[each[epoch] for each in by_epoch] for epoch in epochs]
    mean = [(epoch, sum(each) / len(each)) for epoch, each in zip(epochs, values, strict=True)]
    return mean, [min(each) for each in values], [max(each) for each in values]
