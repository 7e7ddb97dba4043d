"""What all charts of the report share: their style, and how they become SVG or PDF.

In SVG, text has the color of the page, so that the charts support dark mode.
"""

import html
import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray

Series = Sequence[tuple[float, float]]

# Based on Okabe and Ito (2008), distinguishable with color vision deficiencies; darkened to a
# contrast of at least 3:1 against both the light and the dark page.
PALETTE = ("#0072b2", "#b87f00", "#009e73", "#d55e00", "#bf6b99", "#2e94cc", "#7d7d7d", "#8f8600")
GAIN, LOSS, NEUTRAL = "#1a7fc0", "#d55e00", "#7d7d7d"
INK = "#010203"  # replaced by the page's text color in SVG
PAPER = "#fffefd"  # replaced by the page's background in SVG, or by white outside a page
WIDTH = 4.6  # inches; small enough for labels to remain readable on a phone

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "pdf.fonttype": 42,
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # labels are plain text, also with two `$`
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}
_MAX_POINTS = 200


def style() -> AbstractContextManager[None]:
    """Return a context in which figures have the report's style."""
    return matplotlib.rc_context(_SETTINGS)


def add_grid(axes: Axes, axis: Any = "both") -> None:
    """Draw faint lines at the ticks, behind the data."""
    axes.grid(axis=axis, alpha=0.15, color=INK)
    axes.set_axisbelow(True)


def as_svg(figure: Figure, title: str) -> str:
    """Return the figure as SVG for a page, with its text as text and in the page's colors."""
    _remove_background(figure)
    buffer = io.StringIO()
    with style():
        canvas = FigureCanvasSVG(figure)
        canvas.print_svg(buffer, metadata={"Date": None, "Creator": None, "Title": title})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = text.replace(PAPER, "var(--paper, #fff)")
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)


def as_pdf(figure: Figure) -> bytes:
    """Return the figure as PDF for a paper; equal figures give equal bytes."""
    _remove_background(figure)
    buffer = io.BytesIO()
    with style():
        metadata = {"CreationDate": None, "Creator": None, "Producer": None}
        FigureCanvasPdf(figure).print_pdf(buffer, metadata=metadata)
    return buffer.getvalue()


def _remove_background(figure: Figure) -> None:
    """Let the page show through."""
    for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
        patch.set_visible(False)


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return the positions moved as little as possible (least squares) so that neighbors are at
    least `gap` apart and all are between `low` and `high`. The gap shrinks if there is no room."""
    order = np.argsort(positions, kind="stable")
    gap = min(gap, (high - low) / max(1, len(positions) - 1))
    steps = gap * np.arange(len(positions))
    fitted = isotonic_regression(np.asarray(positions, float)[order] - steps)
    moved = np.empty(len(positions))
    moved[order] = np.clip(fitted, low, high - steps[-1]) + steps
    return [float(value) for value in moved]


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
    return INK if row is None else PALETTE[row % len(PALETTE)]


def isotonic_regression(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the non-decreasing values closest to `values`, both `(n,)`, in least squares.

    Adjacent blocks in the wrong order are merged to their mean (pool adjacent violators; Ayer et
    al., 1955).
    """
    blocks: list[tuple[float, int]] = []  # mean and length
    for value in values.tolist():
        mean, length = value, 1
        while blocks and blocks[-1][0] >= mean:
            earlier, count = blocks.pop()
            mean = (earlier * count + mean * length) / (count + length)
            length += count
        blocks.append((mean, length))
    return np.repeat([mean for mean, _ in blocks], [length for _, length in blocks])
