"""Draw a network's features before and after its flows, as in Figures 1 and 6 of the paper."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipelines.data.manifest import ClassInfo
from pipelines.data.overlays import Pixels, colorize
from pipelines.figures.layout import FONT, Layout, class_legend, save, shortened, show

_STEPS = {"neck": "before the flows", "detail": "after DF", "semantic": "after SF"}


@dataclass(frozen=True)
class Features:
    """The features of one level for one image.

    image: uint8 `(height, width, 3)`.
    maps: by step (`neck` and each flow), the mean over channels, float32 at the level's size.
    prediction: uint8 `(height, width)`.
    """

    identifier: str
    image: Pixels
    maps: dict[str, NDArray[np.float32]]
    prediction: Pixels


def draw_features(
    paths: Sequence[Path],
    rows: Sequence[Features],
    classes: Sequence[ClassInfo],
    stride: int,
    title: str,
) -> None:
    """Draw the figure and write it to each of `paths`, in the format of its suffix.

    One row per image: the image, the feature map after each step, the prediction. Each map is
    scaled from its 1st to its 99th percentile, because the steps have different value ranges.
    """
    steps = list(rows[0].maps)
    columns = ["image", *(_STEPS.get(step, f"after {step}") for step in steps), "prediction"]
    subtitles = ["", *[f"mean activation, stride {stride}"] * len(steps), ""]
    aspect = max(row.image.shape[0] / row.image.shape[1] for row in rows)
    layout = Layout(len(columns), len(rows), aspect, row_text=0.17)
    figure = Figure()
    FigureCanvasAgg(figure)
    legend = class_legend(classes, [row.prediction for row in rows])
    title += "\nbright: strong activation; each map has its own scale"
    axes = layout.arrange(figure, title, columns, subtitles, [legend])
    for line, row in zip(axes, rows, strict=True):
        show(line[0], row.image)
        height, width = row.image.shape[:2]
        for axis, values in zip(line[1:-1], row.maps.values(), strict=True):
            low, high = np.percentile(values, (1, 99))
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            style = {"cmap": "viridis", "interpolation": "bilinear", "extent": extent}
            show(axis, values, vmin=low, vmax=high, **style)
        show(line[-1], colorize(row.prediction, classes))
        line[0].set_xlabel(shortened(row.identifier), fontsize=FONT - 1, labelpad=2)
    save(figure, paths, dpi=220)
