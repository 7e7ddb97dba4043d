"""What the flows do to a network's features: Figures 1 and 6 of the paper."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from models import FENet
from pipelines.data.dataset import ClassInfo
from pipelines.data.normalization import normalize
from pipelines.data.overlays import Pixels, colorize
from pipelines.evaluation.inference import predict
from pipelines.figures.layout import FONT, Layout, class_legend, shortened, show
from pipelines.network.precision import Numerics

_STEPS = {"neck": "before the flows", "detail": "after DF", "semantic": "after SF"}


@dataclass(frozen=True)
class Features:
    """One image: `picture` uint8 (h, w, 3); by step, the mean over the channels of one level,
    float32 (h', w'); the prediction, uint8 (h, w)."""

    identifier: str
    picture: Pixels
    maps: dict[str, NDArray[np.float32]]
    prediction: Pixels


@torch.no_grad()
def extract_features(
    network: FENet, identifier: str, picture: Pixels, level: int, numerics: Numerics
) -> Features:
    """The features of one level, from 1 for the finest, before the flows and after each."""
    images = normalize(torch.tensor(picture).permute(2, 0, 1)[None].to(numerics.device))
    images = numerics.to_memory_format(images)
    with numerics.autocast():
        found = network.features(images)
        prediction = predict(network, images, (picture.shape[0], picture.shape[1]))
    steps = [name for name in found if name != "backbone"]
    maps = {name: found[name][level - 1][0].float().mean(dim=0).cpu().numpy() for name in steps}
    return Features(identifier, picture, maps, prediction[0].to("cpu", torch.uint8).numpy())


def draw_features(
    paths: Sequence[Path],
    rows: Sequence[Features],
    classes: Sequence[ClassInfo],
    stride: int,
    title: str,
) -> None:
    """Write the figure to each of `paths`, in the format of its suffix.

    A row an image: the picture, the feature map after each step, the prediction. A map is scaled
    from its 1st to its 99th percentile, because the steps work on scales of their own.
    """
    steps = list(rows[0].maps)
    columns = ["image", *(_STEPS.get(step, f"after {step}") for step in steps), "prediction"]
    subtitles = ["", *[f"mean activation, stride {stride}"] * len(steps), ""]
    aspect = max(row.picture.shape[0] / row.picture.shape[1] for row in rows)
    layout = Layout(len(columns), len(rows), aspect, row_text=0.17)
    figure = Figure()
    FigureCanvasAgg(figure)
    legend = class_legend(classes, [row.prediction for row in rows])
    title += "\nbright: strong activation, each map on its own scale"
    axes = layout.arrange(figure, title, columns, subtitles, [legend])
    for line, row in zip(axes, rows, strict=True):
        show(line[0], row.picture)
        height, width = row.picture.shape[:2]
        for axis, values in zip(line[1:-1], row.maps.values(), strict=True):
            low, high = np.percentile(values, (1, 99))
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            style = {"cmap": "viridis", "interpolation": "bilinear", "extent": extent}
            show(axis, values, vmin=low, vmax=high, **style)
        show(line[-1], colorize(row.prediction, classes))
        line[0].set_xlabel(shortened(row.identifier), fontsize=FONT - 1, labelpad=2)
    for path in paths:
        figure.savefig(path, dpi=220)
