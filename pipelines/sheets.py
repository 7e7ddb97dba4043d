"""Sheets of pictures to look at: samples as they are stored, and crops as they are trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipelines.augmentation import IMAGENET_MEAN, IMAGENET_STD, Augmentation
from pipelines.data import DataConfig
from pipelines.dataset import IGNORE_INDEX, ClassInfo, PreparedDataset
from pipelines.loading import TrainingBatches

Pixels = NDArray[np.uint8]

LINE = 14  # height of a line of text in pixels


def contact_sheet(dataset: PreparedDataset, count: int = 12, width: int = 256) -> Image.Image:
    """`count` samples spread over all splits, each beside its labels, `width` pixels wide."""
    tiles = []
    for name, images in dataset.manifest.counts.items():
        split = dataset.split(name)
        share = max(1, round(count * images / sum(dataset.manifest.counts.values())))
        for index in np.linspace(0, images - 1, min(share, images)).astype(int).tolist():
            image, label = split.read(index)
            pair = [_resize(each, width) for each in (image, colored(label, dataset))]
            title = f"{name}/{split.identifiers[index]}  {image.shape[1]}x{image.shape[0]}"
            tiles.append(_titled(np.concatenate(pair, axis=1), title))
    return _sheet(tiles, columns=2, classes=dataset.manifest.classes)


def preview(
    dataset: PreparedDataset, data: DataConfig, count: int = 12, seed: int = 0, width: int = 320
) -> Image.Image:
    """The first `count` augmented crops of epoch 0 with their labels laid over them.

    What is not labelled or padding is left as it is.
    """
    split = dataset.split(data.train_split)
    batches = TrainingBatches(split, data, seed, global_batch=min(count, len(split)))
    augmentation = Augmentation(data.augmentation, data.crop)
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    tiles: list[Pixels] = []
    for batch in batches.epoch(0):
        images, labels = augmentation(batch)
        for image, label, name in zip(images, labels, batch.identifiers, strict=True):
            unit = image.permute(1, 2, 0).numpy() * std + mean
            pixels = (unit.clip(0, 1) * 255).round().astype(np.uint8)
            shown = overlay(pixels, label.byte().numpy(), dataset)
            pair = [_resize(each, width) for each in (pixels, shown)]
            tiles.append(_titled(np.concatenate(pair, axis=1), name))
        if len(tiles) >= count:
            break
    return _sheet(tiles[:count], columns=2, classes=dataset.manifest.classes)


def colored(label: Pixels, dataset: PreparedDataset) -> Pixels:
    """The label in the data set's colours, black where it is ignored: (height, width, 3)."""
    palette = np.zeros((256, 3), np.uint8)
    for index, info in enumerate(dataset.manifest.classes):
        palette[index] = info.color
    return palette[label]


def overlay(image: Pixels, label: Pixels, dataset: PreparedDataset) -> Pixels:
    """The image with half-transparent label colours; untouched where it is ignored."""
    mixed = (image.astype(np.uint16) + colored(label, dataset)) // 2
    return np.where((label == IGNORE_INDEX)[..., None], image, mixed).astype(np.uint8)


def _resize(pixels: Pixels, width: int) -> Pixels:
    height = max(1, round(pixels.shape[0] * width / pixels.shape[1]))
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))


def _titled(pixels: Pixels, title: str) -> Pixels:
    picture = Image.new("RGB", (pixels.shape[1], pixels.shape[0] + LINE), "white")
    picture.paste(Image.fromarray(pixels), (0, LINE))
    # The built-in font lacks most scripts; a name is only there to be recognised.
    ImageDraw.Draw(picture).text((2, 1), title.encode("ascii", "replace").decode(), fill="black")
    return np.asarray(picture)


def _sheet(tiles: list[Pixels], columns: int, classes: Sequence[ClassInfo]) -> Image.Image:
    width = max(tile.shape[1] for tile in tiles) + 4
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [max(tile.shape[0] for tile in row) + 4 for row in rows]
    per_line = max(1, columns * width // 150)
    legend = LINE * -(-len(classes) // per_line) + 4
    sheet = Image.new("RGB", (columns * width, sum(heights) + legend), "white")
    draw = ImageDraw.Draw(sheet)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            sheet.paste(Image.fromarray(tile), (column * width, top))
        top += height
    for index, info in enumerate(classes):
        x, y = index % per_line * 150 + 2, top + index // per_line * LINE + 2
        draw.rectangle((x, y, x + 10, y + 10), fill=info.color, outline="black")
        draw.text((x + 14, y), info.name[:22], fill="black")
    return sheet
