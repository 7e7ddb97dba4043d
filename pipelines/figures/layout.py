"""Lay out figures of many panels at the width of a printed page: image rows, titles, legends."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.text import Text
from numpy.typing import NDArray

from pipelines.data.dataset import IGNORE_INDEX
from pipelines.data.files import atomic_file
from pipelines.data.manifest import ClassInfo
from pipelines.data.overlays import Pixels, colorize

PAGE = 7.2  # inches
FONT = 7.5  # points
_IGNORED = 200  # gray below the stripes of ignored pixels
_MARGIN = 0.04
_WIDTH = 112  # characters in a line of the title
# Heights in inches of a line of text, of the title and of the legend.
_LINE = FONT * 1.4 / 72
_CHARACTER = FONT * 0.7 / 72  # the width of most characters in bold type
_TITLE_LINE = (FONT + 0.5) * 1.25 / 72
_LEGEND_LINE = (FONT - 0.5) * 1.48 / 72


@dataclass(frozen=True)
class Layout:
    """A grid of equal panels.

    aspect: height over width of a panel.
    row_text: inches reserved for text below each row.
    """

    columns: int
    rows: int
    aspect: float
    row_text: float

    def arrange(
        self,
        figure: Figure,
        title: str,
        columns: Sequence[str],
        subtitles: Sequence[str],
        legends: Sequence[Sequence[Patch]],
    ) -> list[list[Axes]]:
        """Resize `figure`, add titles and legends, and return the empty panels by row.

        Titles of columns that are wider than a panel continue on the next line.
        """
        gap = 0.05
        panel_width = (PAGE - 2 * _MARGIN - gap * (self.columns - 1)) / self.columns
        panel_height = panel_width * self.aspect
        lines = [part for line in title.splitlines() for part in textwrap.wrap(line, _WIDTH)]
        width = int(panel_width / _CHARACTER)
        titles = [textwrap.wrap(column, width) for column in columns]
        head_lines = max(map(len, titles), default=1) + any(subtitles)
        head = len(lines) * _TITLE_LINE + (head_lines + 0.2) * _LINE + 0.1
        blocks = [(entries, _legend_columns(entries)) for entries in legends if entries]
        heights = [-(-len(entries) // count) * _LEGEND_LINE + 0.07 for entries, count in blocks]
        foot = sum(heights)
        height = head + self.rows * (panel_height + self.row_text) + foot
        figure.set_size_inches(PAGE, height)
        figure.text(
            0.5,
            1 - 0.06 / height,
            "\n".join(lines),
            ha="center",
            va="top",
            fontsize=FONT + 0.5,
        )
        axes = []
        for row in range(self.rows):
            line = []
            bottom = height - head - (row + 1) * panel_height - row * self.row_text
            for column in range(self.columns):
                left = _MARGIN + column * (panel_width + gap)
                box = (left / PAGE, bottom / height, panel_width / PAGE, panel_height / height)
                axis = figure.add_axes(box)
                axis.set_xticks([])
                axis.set_yticks([])
                for spine in axis.spines.values():
                    spine.set_visible(False)
                line.append(axis)
            axes.append(line)
        for axis, title_lines, subtitle in zip(axes[0], titles, subtitles, strict=True):
            above = 0.04 / panel_height
            step = _LINE / panel_height
            style: dict[str, Any] = {"ha": "center", "va": "bottom", "transform": axis.transAxes}
            raised = step * bool(any(subtitles))
            axis.text(
                0.5,
                1 + above + raised,
                "\n".join(title_lines),
                fontsize=FONT,
                fontweight="bold",
                **style,
            )
            axis.text(0.5, 1 + above, subtitle, fontsize=FONT - 1, **style)
        y = foot
        for (entries, count), block_height in zip(blocks, heights, strict=True):
            figure.legend(
                handles=list(entries),
                loc="upper center",
                bbox_to_anchor=(0.5, y / height),
                ncols=count,
                fontsize=FONT - 0.5,
                frameon=False,
                handlelength=1.5,
                handleheight=0.9,
                columnspacing=1.0,
                handletextpad=0.4,
                labelspacing=0.25,
                borderpad=0.1,
                borderaxespad=0,
            )
            y -= block_height
        return axes


def show(axis: Axes, pixels: NDArray[Any], **options: Any) -> None:
    """Draw an image in its panel, as large as its aspect ratio allows."""
    axis.imshow(pixels, aspect="equal", **options)
    axis.set_anchor("N")


def save(figure: Figure, paths: Sequence[Path], dpi: float | Literal["figure"] = "figure") -> None:
    """Write the figure to each of `paths` atomically, in the format of its suffix. dpi: pixels per
    inch. Text is plain text, also with two `$`."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
    for path in paths:
        with atomic_file(path, sync=False) as partial:
            figure.savefig(partial, format=path.suffix[1:].lower(), dpi=dpi)


def unit(color: Sequence[int]) -> tuple[float, float, float]:
    """Convert red, green and blue from 0-255 to 0-1."""
    red, green, blue = (value / 255 for value in color)
    return red, green, blue


def shortened(text: str, longest: int = 28) -> str:
    """Shorten a long name to its end, which is more specific than its start."""
    return text if len(text) <= longest else f"…{text[1 - longest :]}"


def class_legend(classes: Sequence[ClassInfo], shown: Sequence[Pixels]) -> list[Patch]:
    """Return legend entries for the classes in the label maps `shown`, and for ignored pixels."""
    occurring = np.unique(np.concatenate([np.unique(labels) for labels in shown])).tolist()
    entries = [
        Patch(
            facecolor=unit(entry.color),
            edgecolor="0.5",
            linewidth=0.4,
            label=entry.name,
        )
        for index, entry in enumerate(classes)
        if index in occurring
    ]
    return entries + ignored_legend(shown)


def ignored_legend(shown: Sequence[Pixels]) -> list[Patch]:
    """Return a legend entry if a pixel of the label maps `shown` is ignored, else none."""
    if not any((labels == IGNORE_INDEX).any() for labels in shown):
        return []
    color = unit((_IGNORED,) * 3)
    return [Patch(facecolor=color, hatch="/////", edgecolor="black", linewidth=0, label="ignored")]


def draw_labels(labels: Pixels, classes: Sequence[ClassInfo]) -> Pixels:
    """Draw a label map in the colors of its classes, uint8 `(height, width, 3)`, with ignored
    pixels gray and striped: a class may be black."""
    drawn = colorize(labels, classes)
    ignored = labels == IGNORE_INDEX
    drawn[ignored] = _IGNORED
    drawn[ignored & stripes(labels.shape)] = 0
    return drawn


def stripes(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return diagonal stripes, bool `(height, width)`, of the same width on the page for any
    number of pixels."""
    period = texture_period(shape)
    rows, columns = np.indices(shape)
    return np.asarray((rows + columns) % period < period * 0.3)


def texture_period(shape: tuple[int, ...]) -> int:
    """Return the distance in pixels of the stripes and dots in an image of this shape."""
    return max(4, round(shape[1] / 40))


def _legend_columns(entries: Sequence[Patch]) -> int:
    """Return how many entries of the longest name's width fit on a line of the page."""
    longest = max(len(str(entry.get_label())) for entry in entries)
    width = 0.42 + longest * FONT * 0.56 / 72
    return max(1, min(len(entries), int((PAGE - 0.3) / width)))
