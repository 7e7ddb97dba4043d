"""The report's charts: contrast, labels that stay apart, the Pareto line, and their files."""

import re
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from orchestrator.report.charts.accuracy import Point, draw_accuracy, pareto
from orchestrator.report.charts.curves import Curve, draw_curves
from orchestrator.report.charts.drawing import (
    GAIN,
    LOSS,
    NEUTRAL,
    PALETTE,
    PAPER,
    as_pdf,
    as_svg,
    isotonic_regression,
    spread,
)
from orchestrator.report.charts.forest import (
    ForestLine,
    draw_compact_forest,
    draw_forest,
    limits_of,
)
from orchestrator.report.charts.samples import SampledSeries, draw_samples
from orchestrator.report.documents import html
from orchestrator.study.sampling import RangeConfig

PAGE = Path(html.__file__).parent / "templates" / "page.html"
LINES = [
    ForestLine("shown <b>", 2.0, (1.0, 3.0), (1.5, 2.5), 1.2, True, "+2.00 [+1.00, +3.00]"),
    ForestLine("not shown", -0.5, (-2.0, 1.0), (-1.0, 0.0), None, False),
    ForestLine("one seed", 1.0, None, (1.0,), None, False),
    ForestLine("not trained", None, None, (), None, False, "failed"),
]


def luminance(color: str) -> float:
    """Return the relative luminance of `#rgb` or `#rrggbb` (WCAG 2.2)."""
    digits = color.removeprefix("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    channels = [int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two colors (WCAG 2.2)."""
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_text_and_marks_suffices_in_both_color_schemes() -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    pairs = re.findall(r"--(\w+): light-dark\((#\w+), (#\w+)\)", PAGE.read_text())
    schemes = [{name: each[scheme] for name, *each in pairs} for scheme in (0, 1)]
    for colors in schemes:
        for text in ("ink", "faint", "link"):
            assert contrast(colors[text], colors["paper"]) >= 4.5, text
        for box in ("warn", "bad"):
            assert contrast(colors["ink"], colors[box]) >= 4.5, box
        for mark in (*PALETTE, GAIN, LOSS, NEUTRAL):
            assert contrast(mark, colors["paper"]) >= 3, mark
        # The heat map mixes at most 60 % of a color into the paper.
        for shade in ("gain", "loss"):
            mixed = [
                round(0.6 * int(colors[shade][i : i + 2], 16) + 0.4 * int(paper[i : i + 2], 16))
                for paper in ["#" + colors["paper"][1:] * (2 if len(colors["paper"]) == 4 else 1)]
                for i in (1, 3, 5)
            ]
            background = "#" + "".join(f"{channel:02x}" for channel in mixed)
            assert contrast(colors["ink"], background) >= 4.5, shade


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_spread_keeps_the_order_and_the_gap(positions: list[float]) -> None:
    moved = spread(positions, 0.05, 0.0, 1.0)
    assert all(-1e-9 <= value <= 1 + 1e-9 for value in moved)
    ordered = sorted(range(len(positions)), key=lambda index: positions[index])
    for first, second in pairwise(ordered):
        assert moved[second] - moved[first] >= 0.05 - 1e-9


def test_spread_moves_nothing_that_is_apart() -> None:
    assert spread([0.9, 0.1, 0.5], 0.2, 0.0, 1.0) == [0.9, 0.1, 0.5]


def point(label: str, gflops: float, miou: float) -> Point:
    return Point(label, gflops, miou, "measured", 0, 0.3)


def test_pareto_line_joins_points_that_no_other_beats() -> None:
    points = [point("a", 3, 70), point("b", 1, 60), point("c", 2, 75), point("d", 1, 61)]
    assert [each.label for each in pareto(points)] == ["d", "c"]


def test_pareto_line_leaves_out_rows_that_are_not_comparable() -> None:
    points = [point("a", 1, 60), point("b", 2, 65), point("c", 3, 70)]
    points.append(replace(point("other split", 0.5, 90), comparable=False))
    (axes,) = draw_accuracy(points).axes
    (line,) = [each for each in axes.lines if each.get_linestyle() == "--"]
    assert list(line.get_ydata()) == [60, 65, 70]


def test_labels_of_the_accuracy_chart_do_not_overlap() -> None:
    names = ["baseline", *(f"strong + DF + SF + SS({index})" for index in range(6))]
    points = [point(name, 37 + 0.2 * index, 60 + index) for index, name in enumerate(names)]
    figure = draw_accuracy(points)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = {text.get_text(): text.get_window_extent() for text in axes.texts}
    assert boxes.keys() == set(names)
    frame = axes.get_window_extent()
    for first, second in combinations(boxes.values(), 2):
        assert not first.overlaps(second)
    for box in boxes.values():
        assert frame.x0 - 2 <= box.x0
        assert box.x1 <= frame.x1 + 2


def test_costs_of_different_orders_of_magnitude_are_spread() -> None:
    """Three of four networks have close to none of the largest one's cost."""
    points = [point(str(cost), cost, 60 + cost / 9) for cost in (0.5, 1, 2, 90)]
    figure = draw_accuracy(points)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    across = [axes.transAxes.inverted().transform(axes.transData.transform((p.gflops, p.miou)))[0]
              for p in points]  # fmt: skip
    assert min(b - a for a, b in pairwise(across)) > 0.05
    labels = {text.get_text() for text in axes.get_xticklabels()}
    assert {"1", "10"} <= labels


def test_nearly_equal_costs_are_close_to_each_other() -> None:
    figure = draw_accuracy([point("a", 10.0, 60), point("b", 10.1, 62)])
    low, high = figure.axes[0].get_xlim()
    assert high - low > 1
    assert low < 10.0 < 10.1 < high


@pytest.mark.slow
def test_forest_plot_as_svg_and_pdf() -> None:
    limits = limits_of(LINES)
    assert limits[0] < -2 < 3 < limits[1]
    figure = draw_forest(LINES, limits, "points", "resnet18")
    svg = as_svg(figure, "Differences")
    for text in ("shown &lt;b&gt;", "+2.00 [+1.00, +3.00]", "failed", "resnet18"):
        assert text in svg
    assert GAIN in svg
    assert "#010203" not in svg
    assert "currentColor" in svg
    # Boxes behind the text have the page's background, white where there is no page.
    fills = re.findall(r"fill: ([^;\"]+)", svg)
    assert "var(--paper, #fff)" in fills
    assert not {"#ffffff", "white"} & set(fills)
    assert "#fffefd" not in svg
    assert as_pdf(figure).startswith(b"%PDF")
    assert as_pdf(figure) == as_pdf(draw_forest(LINES, limits, "points", "resnet18"))


@pytest.mark.parametrize("label", [r"ours ($\textsc{df}$)", "cost $5_a to $10_b"])
def test_labels_are_plain_text(label: str) -> None:
    figures = [
        draw_forest([ForestLine(label, 1.0, None, (1.0,), None, False)], (0.0, 2.0), label, label),
        draw_accuracy([point(label, 1, 60), point("b", 2, 61)], label),
        draw_curves([Curve(label, 0, ([(1, 1.0), (2, 2.0)],))], label),
    ]
    for figure in figures:
        assert label in as_svg(figure, "title")


def test_ticks_of_a_logarithmic_key_are_plain_text() -> None:
    samples = {number: ({"rate": 10.0**-number}, 60.0) for number in range(4)}
    series = [SampledSeries("row", 0, samples, 1)]
    svg = as_svg(draw_samples(series, {"rate": RangeConfig(log=(1e-3, 1))}, "mIoU %"), "Samples")
    assert "1e\N{MINUS SIGN}02" in svg
    assert "mathdefault" not in svg


def test_only_significant_differences_have_a_color() -> None:
    gray = [line for line in LINES if not line.significant]
    svg = as_svg(draw_forest(gray, limits_of(gray), "points"), "Differences")
    assert NEUTRAL in svg
    assert GAIN not in svg
    assert LOSS not in svg


def test_long_names_leave_room_for_the_differences() -> None:
    name = "a class with a rather long and descriptive name"
    lines = [replace(line, label=f"{name} {index}") for index, line in enumerate(LINES)]
    row = "a row with a label that describes all of its settings"
    figure = draw_compact_forest(lines, limits_of(lines), f"IoU points, {row} minus {row}")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert axes.get_window_extent().width > 0.5 * figure.bbox.width
    label = axes.xaxis.label.get_window_extent()
    assert figure.bbox.x0 <= label.x0 < label.x1 <= figure.bbox.x1


def test_accuracy_chart_of_many_rows_names_those_that_no_other_beats() -> None:
    points = [point(str(index), 1 + index, 60 + index % 10) for index in range(30)]
    (axes,) = draw_accuracy(points).axes
    assert {text.get_text() for text in axes.texts} == {each.label for each in pareto(points)}


def test_significance_is_not_shown_by_color_alone() -> None:
    (axes,) = draw_forest(LINES[:3], limits_of(LINES), "points").axes
    bars = [line.get_linewidth() for line in axes.lines if line.get_linestyle() == "-"]
    shown, not_shown = (width for width in bars if width != 0.7)  # that of the line at 0
    assert shown > 2 * not_shown
    points = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata()) < 2]
    faces = [point.get_markerfacecolor() for point in points]
    assert faces == [GAIN, PAPER, PAPER]


def test_ticks_are_whole_epochs() -> None:
    series = ([(1, 10.0), (2, 20.0), (3, 30.0)],)
    figure = draw_curves([Curve("row", 0, series)], "mIoU %")
    figure.draw_without_rendering()
    assert [float(tick) for tick in figure.axes[0].get_xticks()] == [1, 2, 3]


def test_curve_is_the_mean_over_the_epochs_that_all_seeds_have() -> None:
    seeds = ([(1, 10.0), (2, 20.0), (3, 90.0)], [(1, 20.0), (2, 40.0)])
    (axes,) = draw_curves([Curve("row", 0, seeds)], "mIoU %").axes
    line = axes.lines[0]
    assert list(line.get_xdata()) == [1, 2]
    assert list(line.get_ydata()) == [15.0, 30.0]
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == 10.0
    assert band.max() == 40.0
    assert [text.get_text() for text in axes.texts] == ["row"]


@pytest.mark.parametrize(("last", "scale"), [(0.01, "log"), (0.0, "linear"), (-0.3, "linear")])
def test_axis_is_logarithmic_for_positive_values_only(last: float, scale: str) -> None:
    curves = [Curve("a", 0, ([(1, 2.0), (2, last)],)), Curve("b", 1, ([(1, 2.0), (2, 1.0)],))]
    (axes,) = draw_curves(curves, "loss", logarithmic=True).axes
    assert axes.get_yscale() == scale
    low, high = axes.get_ylim()
    assert low < last < 2.0 < high


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12))
def test_isotonic_regression_is_scipys(values: list[float]) -> None:
    fitted = isotonic_regression(np.array(values))
    np.testing.assert_allclose(fitted, optimize.isotonic_regression(values).x, atol=1e-9)
