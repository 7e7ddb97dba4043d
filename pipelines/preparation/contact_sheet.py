"""Sheets of images for visual inspection: stored samples, and augmented training crops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipelines.data.augmentation import Augmentation
from pipelines.data.config import DataConfig
from pipelines.data.dataset import IGNORE_INDEX, PreparedDataset
from pipelines.data.loading import TrainingBatches
from pipelines.data.manifest import ClassInfo, DatasetError
from pipelines.data.overlays import Pixels, colorize, drawable

# All in pixels.
LINE = 14  # height of a line of text
GAP = 4  # between images
ENTRY = 150  # width of a legend entry
SWATCH = 11  # side of a color sample in the legend

GRAY = 200  # below the hatching of ignored pixels
_CONTRAST = 0.4  # of the image that shades the colors of its classes


def contact_sheet(dataset: PreparedDataset, count: int = 12, width: int = 256) -> Image.Image:
    """Draw about `count` samples of all splits next to their labels, at most `width` pixels wide.

    Ignored pixels are hatched in the labels.
    """
    classes, image_format = dataset.manifest.classes, dataset.manifest.images
    tiles = []
    for name, images in dataset.manifest.counts.items():
        split = dataset.split(name)
        share = max(1, round(count * images / sum(dataset.manifest.counts.values())))
        for index in np.linspace(0, images - 1, min(share, images)).astype(int).tolist():
            image, label = split.read(index)
            title = f"{name}/{split.identifiers[index]}  {image.shape[0]} x {image.shape[1]}"
            if not split.class_pixels[index].any():
                title += "  unlabeled"
            drawn = _resize(image_format.drawn(image), width)
            tiles.append(_tile([drawn, _drawn_label(label, classes, width)], title))
    return _sheet(tiles, classes, "ignored")


def preview(
    dataset: PreparedDataset, data: DataConfig, count: int = 12, seed: int = 0, width: int = 320
) -> Image.Image:
    """Draw the first `count` augmented crops of epoch 0, plain and with their labels overlaid.

    The crop shades the classes' colors in gray, because augmentation changes its own colors.
    Ignored pixels, which include padding, are hatched. Raises DatasetError if `data` requests
    class-uniform sampling of a split without labels.
    """
    classes, image_format = dataset.manifest.classes, dataset.manifest.images
    split = dataset.split(data.trained_on)
    if data.class_uniform and not len(split.centroids):
        raise DatasetError(
            f"{dataset.location.uri}: class_uniform is {data.class_uniform}, but split "
            f"{data.trained_on!r} has no labels; use 0"
        )
    batches = TrainingBatches(split, data, seed, global_batch=min(count, len(split)))
    augmentation = Augmentation(data.augmentation, data.crop, image_format)
    mean, std = np.array(image_format.mean), np.array(image_format.std)
    low, high = image_format.scale
    tiles: list[Image.Image] = []
    for batch in batches.epoch(0):
        images, labels = augmentation(batch)
        for image, label, name in zip(images, labels, batch.identifiers, strict=True):
            unit = image.permute(1, 2, 0).numpy() * std + mean
            stored = (low + unit.clip(0, 1) * (high - low)).round().astype(image_format.dtype)
            pixels = image_format.drawn(stored)
            indices = label.byte().numpy()
            labeled = _resize(shaded_labels(pixels, indices, classes), width)
            ignored = _resize(indices, width, Image.Resampling.NEAREST) == IGNORE_INDEX
            tiles.append(_tile([_resize(pixels, width), hatch(labeled, ignored)], name))
        if len(tiles) >= count:
            break
    return _sheet(tiles[:count], classes, "ignored or padding")


def _drawn_label(label: Pixels, classes: Sequence[ClassInfo], width: int) -> Pixels:
    """Draw a label in the colors of its classes, with ignored pixels gray and hatched."""
    ignored = label == IGNORE_INDEX
    colored = np.where(ignored[..., None], np.uint8(GRAY), colorize(label, classes))
    shrunk = _resize(ignored.astype(np.uint8), width, Image.Resampling.NEAREST)
    return hatch(_resize(colored, width), shrunk.astype(np.bool_))


def shaded_labels(image: Pixels, labels: Pixels, classes: Sequence[ClassInfo]) -> Pixels:
    """Return the colors of `labels`, lighter and darker where the image is.

    image: uint8 (height, width, 3). labels: uint8 (height, width). The average over an image of a
    single class is its color, unless values are clipped. Ignored pixels are gray.
    """
    brightness = image.mean(axis=2, keepdims=True)
    colored = colorize(labels, classes) + _CONTRAST * (brightness - brightness.mean())
    colored[labels == IGNORE_INDEX] = GRAY
    return colored.clip(0, 255).round().astype(np.uint8)


def hatch(pixels: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    """Return an image, (height, width, 3), with thin black diagonal lines where `mask` is true."""
    rows, columns = np.indices(mask.shape)
    lines = (rows + columns) % 5 == 0
    return np.where((mask & lines)[..., None], 0, pixels).astype(np.uint8)


def _resize(
    pixels: Pixels, width: int, resampling: Image.Resampling = Image.Resampling.BOX
) -> Pixels:
    """Resize an image to `width` pixels wide, or to less if its height would exceed 1.5 `width`."""
    factor = min(width / pixels.shape[1], 1.5 * width / pixels.shape[0])
    size = [max(1, round(length * factor)) for length in pixels.shape[1::-1]]
    return np.asarray(Image.fromarray(pixels).resize((size[0], size[1]), resampling))


def _tile(images: Sequence[Pixels], title: str) -> Image.Image:
    """Draw images of one size side by side under a title."""
    height, width = images[0].shape[:2]
    step = width + GAP
    tile = Image.new("RGB", (step * len(images) - GAP, height + LINE), "white")
    for column, pixels in enumerate(images):
        tile.paste(Image.fromarray(pixels), (column * step, LINE))
    ImageDraw.Draw(tile).text((2, 1), drawable(title), "black")
    return tile


def _sheet(tiles: list[Image.Image], classes: Sequence[ClassInfo], ignored: str) -> Image.Image:
    """Draw tiles in two columns, with a legend of the classes and the hatched pixels below.

    ignored: the meaning of hatched pixels.
    """
    gray = np.full((SWATCH, SWATCH, 3), GRAY, np.uint8)
    swatch = hatch(gray, np.ones((SWATCH, SWATCH), np.bool_))
    width = max(tile.width for tile in tiles) + 3 * GAP
    rows = [tiles[start : start + 2] for start in range(0, len(tiles), 2)]
    heights = [max(tile.height for tile in row) + GAP for row in rows]
    entries = [
        (info.name, np.full((SWATCH, SWATCH, 3), info.color, np.uint8)) for info in classes
    ] + [(ignored, swatch)]
    per_line = max(1, 2 * width // ENTRY)
    legend = LINE * -(-len(entries) // per_line) + GAP
    sheet = Image.new("RGB", (2 * width, sum(heights) + legend), "white")
    draw = ImageDraw.Draw(sheet)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            sheet.paste(tile, (column * width, top))
        top += height
    for number, (name, pixels) in enumerate(entries):
        x, y = number % per_line * ENTRY + 2, top + number // per_line * LINE + 2
        sheet.paste(Image.fromarray(pixels), (x, y))
        draw.rectangle((x, y, x + SWATCH - 1, y + SWATCH - 1), outline="black")
        draw.text((x + SWATCH + 3, y), drawable(name[:22]), "black")
    return sheet
