"""Draw two models side by side on the same images, as in Figures 4, 5 and 7 of the paper.

Differences are distinguishable without color: a gain is solid dark blue, a loss is orange with
stripes, and pixels that both models get wrong differently are light gray with dots. Elsewhere, the
panel is the image in gray. The largest regions are boxed in every panel, gains with a solid line,
losses with a dashed line.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import Stroke
from scipy import ndimage

from pipelines.data.dataset import IGNORE_INDEX
from pipelines.data.manifest import ClassInfo
from pipelines.data.overlays import Pixels
from pipelines.figures.layout import (
    FONT,
    Layout,
    class_legend,
    draw_labels,
    save,
    shortened,
    show,
    stripes,
    texture_period,
    unit,
)

_GAIN = (0, 90, 181)
_LOSS = (255, 150, 50)
_OTHER = (225, 225, 225)
_SAME = (175, 175, 175)  # the middle of the grays of the image
_BOXES = 2  # at most this many of each kind per image
_SMALLEST_BOX = 0.003  # share of the image's pixels


@dataclass(frozen=True)
class ComparedImage:
    """One image and two predictions of it.

    image: uint8 `(height, width, 3)`.
    label, first, second: ground truth and the models' predictions, uint8 `(height, width)`.
    mious: mIoU of each prediction on this image, in [0, 1].
    mean_mious: the same as means over the models' seeds; None if each model has one seed.
    """

    identifier: str
    image: Pixels
    label: Pixels
    first: Pixels
    second: Pixels
    mious: tuple[float, float]
    mean_mious: tuple[float, float] | None = None


@dataclass(frozen=True)
class Regions:
    """Where two predictions differ on labeled pixels, bool `(height, width)` each.

    gain: the second is correct.
    loss: the first is correct.
    other: both are wrong, with different classes.
    """

    gain: npt.NDArray[np.bool_]
    loss: npt.NDArray[np.bool_]
    other: npt.NDArray[np.bool_]

    @staticmethod
    def of(label: Pixels, first: Pixels, second: Pixels) -> "Regions":
        """Compare two predictions; all arguments are uint8 `(height, width)`."""
        differ = (first != second) & (label != IGNORE_INDEX)
        gain, loss = differ & (second == label), differ & (first == label)
        return Regions(gain, loss, differ & ~gain & ~loss)


def draw_comparison(
    paths: Sequence[Path],
    images: Sequence[ComparedImage],
    classes: Sequence[ClassInfo],
    names: tuple[str, str],
    notes: tuple[str, str],
    title: str,
) -> None:
    """Draw the figure and write it to each of `paths`, in the format of its suffix.

    One row per image: the image, both predictions, the ground truth, the differences.

    names, notes: titles and subtitles of the two models' columns.
    """
    columns = ["image", *names, "ground truth", "differences"]
    subtitles = ["", *notes, "", ""]
    layout = Layout(columns=5, rows=len(images), aspect=_aspect(images), row_text=0.17)
    figure = Figure()
    FigureCanvasAgg(figure)
    shown = [each for i in images for each in (i.label, i.first, i.second)]
    differences = [Regions.of(image.label, image.first, image.second) for image in images]
    legends = [class_legend(classes, shown), difference_legend(images, differences, names)]
    axes = layout.arrange(figure, title, columns, subtitles, legends)
    for line, image, regions in zip(axes, images, differences, strict=True):
        maps = (image.first, image.second, image.label)
        panels = [image.image, *(draw_labels(labels, classes) for labels in maps)]
        for axis, panel in zip(line, [*panels, _mark(image.image, regions)], strict=True):
            show(axis, panel)
            for kind, dashes in ((regions.gain, "-"), (regions.loss, (0, (2, 1.5)))):
                _box(axis, kind, dashes)
        _caption(line, image)
    save(figure, paths, dpi=220)


def difference_legend(
    images: Sequence[ComparedImage], differences: Sequence[Regions], names: tuple[str, str]
) -> list[Patch]:
    """Return legend entries for what occurs in the differences.

    differences: of each of `images`. names: of the two models.
    """
    first, second = (f'"{name}"' for name in names)
    entries = []
    if any(regions.gain.any() for regions in differences):
        entries.append(
            Patch(facecolor=unit(_GAIN), label=f"{second} right, {first} wrong (solid box)")
        )
    if any(regions.loss.any() for regions in differences):
        label = f"{first} right, {second} wrong (dashed box)"
        style: dict[str, Any] = {"hatch": "/////", "edgecolor": "black", "linewidth": 0}
        entries.append(Patch(facecolor=unit(_LOSS), label=label, **style))
    if any(regions.other.any() for regions in differences):
        style = {"hatch": "....", "edgecolor": "0.4", "linewidth": 0}
        entries.append(Patch(facecolor=unit(_OTHER), label="both wrong, differently", **style))
    ignored = any((image.label == IGNORE_INDEX).any() for image in images)
    label = "gray image: same prediction" + (", or ignored" if ignored else "")
    return [*entries, Patch(facecolor=unit(_SAME), label=label)]


def _caption(line: Sequence[Axes], image: ComparedImage) -> None:
    first, second = (100 * miou for miou in image.mious)
    gain = second - first
    texts = [image.identifier, f"mIoU {first:.1f}", f"mIoU {second:.1f}", "", f"{gain:+.1f} points"]
    if image.mean_mious is not None:
        means = [100 * miou for miou in image.mean_mious]
        gain = means[1] - means[0]
        for column, mean in zip((1, 2, 4), (*means, gain), strict=True):
            texts[column] += f", mean {mean:+.1f}" if column == 4 else f", mean {mean:.1f}"
    for position, (axis, text) in enumerate(zip(line, texts, strict=True)):
        better = position == (2 if gain > 0 else 1) and abs(gain) >= 0.05
        weight = "bold" if better else "normal"
        axis.set_xlabel(shortened(text), fontsize=FONT - 1, labelpad=2, fontweight=weight)


def _mark(image: Pixels, regions: Regions) -> Pixels:
    """Return the image in pale gray with the differing regions in colors and textures."""
    gray = image.mean(axis=2, keepdims=True).repeat(3, axis=2) * 0.55 + 105
    period = texture_period(image.shape[:2])
    rows, columns = np.indices(image.shape[:2])
    dots = (rows % period < period * 0.4) & (columns % period < period * 0.4)
    gray[regions.gain] = _GAIN
    gray[regions.loss] = _LOSS
    gray[regions.loss & stripes(image.shape[:2])] = 0
    gray[regions.other] = _OTHER
    gray[regions.other & dots] = 90
    return gray.astype(np.uint8)


def _box(axis: Axes, region: npt.NDArray[np.bool_], dashes: Any) -> None:
    """Box the largest connected parts, ignoring thin lines along the borders of objects."""
    height, width = region.shape
    thickness = max(2, round(min(height, width) / 90))
    solid = ndimage.binary_opening(region, np.ones((thickness, thickness)))
    parts, count = ndimage.label(solid)
    if not count:
        return
    objects = ndimage.find_objects(parts)
    areas = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    for index in np.argsort(-areas)[:_BOXES]:
        if areas[index] < _SMALLEST_BOX * region.size:
            return
        rows, columns = objects[index]
        margin = thickness
        box = Rectangle(
            (max(columns.start - margin, 0), max(rows.start - margin, 0)),
            min(columns.stop + margin, width - 1) - max(columns.start - margin, 0),
            min(rows.stop + margin, height - 1) - max(rows.start - margin, 0),
            fill=False,
            edgecolor="yellow",
            linewidth=0.9,
            linestyle=dashes,
        )
        box.set_path_effects([Stroke(linewidth=1.9, foreground="black"), Stroke()])
        axis.add_patch(box)


def _aspect(images: Sequence[ComparedImage]) -> float:
    """Return height over width of the tallest image."""
    return max(image.label.shape[0] / image.label.shape[1] for image in images)
