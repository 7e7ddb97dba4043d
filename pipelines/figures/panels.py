"""Draw a model's predictions: panels of images and the confusion matrix."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pipelines.data.dataset import IGNORE_INDEX
from pipelines.data.manifest import ClassInfo
from pipelines.data.overlays import Pixels, mistakes
from pipelines.figures.layout import draw_labels, ignored_legend, save, unit


def draw_panels(
    path: Path,
    rows: Sequence[tuple[str, Pixels, Pixels, Pixels]],
    classes: Sequence[ClassInfo],
    title: str,
) -> None:
    """Draw one row per image: the image, its ground truth, the prediction and the mistakes.

    rows: `(identifier, image (h, w, 3), label (h, w), prediction (h, w))`, all uint8.
    """
    columns = ("image", "ground truth", "prediction", "mistakes")
    height, width = rows[0][2].shape
    column_width = 3.4
    row_height = column_width * height / width + 0.28
    legend_height = 0.32 * -(-len(classes) // 8) + 0.15
    total = 0.75 + row_height * len(rows) + legend_height
    figure = Figure(figsize=(column_width * 4 + 0.2, total), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 4, squeeze=False)
    for line, (identifier, image, label, prediction) in zip(axes, rows, strict=True):
        panels = (
            image,
            draw_labels(label, classes),
            draw_labels(prediction, classes),
            mistakes(image, label, prediction),
        )
        valid = label != IGNORE_INDEX
        accuracy = float((prediction == label)[valid].mean()) if valid.any() else float("nan")
        for axis, panel in zip(line, panels, strict=True):
            axis.imshow(panel, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            for spine in axis.spines.values():
                spine.set_visible(False)
        line[0].set_xlabel(identifier, fontsize=8, loc="left", labelpad=2)
        line[3].set_xlabel(f"{accuracy:.1%} of pixels correct", fontsize=8, loc="right", labelpad=2)
    for axis, column in zip(axes[0], columns, strict=True):
        axis.set_title(column, fontsize=10)
    figure.suptitle(title, fontsize=11, y=1 - 0.12 / total)
    entries = [Patch(color=unit(entry.color), label=entry.name) for entry in classes]
    entries += ignored_legend([label for _, _, label, _ in rows])
    figure.legend(handles=entries, loc="lower center", ncols=8, fontsize=8, frameon=False)
    figure.subplots_adjust(
        left=0.005,
        right=0.995,
        top=1 - 0.62 / total,
        bottom=(legend_height + 0.2) / total,
        wspace=0.02,
        hspace=0.28 / row_height,
    )
    save(figure, [path])


def draw_confusion(
    path: Path,
    confusion: npt.NDArray[np.int64],
    iou: npt.NDArray[np.float64],
    names: Sequence[str],
    title: str,
) -> None:
    """Draw the confusion matrix as shares of each label's pixels, with IoU per class on the right.

    confusion: `(classes, classes)`, row = label, column = prediction, in pixels.
    iou: `(classes,)` in [0, 1]; NaN for an absent class.
    """
    pixels = confusion.astype(np.float64)
    labeled = pixels.sum(axis=1, keepdims=True)
    shares = np.divide(pixels, labeled, out=np.zeros_like(pixels), where=labeled > 0)
    size = max(4.5, 0.5 * len(names) + 2.2)
    figure = Figure(figsize=(size + 1.6, size), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    matrix_axis, iou_axis = figure.subplots(1, 2, width_ratios=(5, 1.3), sharey=True)
    matrix_axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    matrix_axis.set_xticks(range(len(names)), names, rotation=55, ha="right", fontsize=8)
    matrix_axis.set_yticks(range(len(names)), names, fontsize=8)
    matrix_axis.set_xlabel("prediction")
    matrix_axis.set_ylabel("label")
    if len(names) <= 30:
        _write_shares(matrix_axis, shares)
    iou_axis.barh(range(len(names)), np.nan_to_num(iou), color="#4477aa")
    iou_axis.set_xlim(0, 1)
    iou_axis.set_xlabel("IoU")
    for index, value in enumerate(iou):
        text = "absent" if np.isnan(value) else f"{100 * value:.1f}"
        length = float(np.nan_to_num(value))
        inside = length > 0.6
        iou_axis.text(
            length + (-0.03 if inside else 0.03),
            index,
            text,
            va="center",
            ha="right" if inside else "left",
            color="white" if inside else "black",
            fontsize=8,
        )
    figure.suptitle(title, fontsize=11)
    save(figure, [path])


def _write_shares(axis: Axes, shares: npt.NDArray[np.float64]) -> None:
    for row, column in zip(*np.nonzero(shares >= 0.005), strict=True):
        value = shares[row, column]
        color = "white" if value > 0.55 else "black"
        axis.text(
            column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=color
        )
