"""A predicted label map over its image, with lines between classes and a legend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from pipelines.data.manifest import ClassInfo
from pipelines.data.overlays import Pixels, drawable, overlay_labels

_NARROWEST = 240  # pixels of a legend, also under a narrower image
_PIXELS_PER_LINE_WIDTH = 400  # of the image's shorter side
_SMALLEST_FONT = 12  # pixels
_LINES_PER_IMAGE = 32  # lines of text as high as the image


def draw_overlay(image: Pixels, labels: Pixels, classes: Sequence[ClassInfo]) -> Pixels:
    """Draw `labels` over the image, half and half, with white lines between the classes.

    image: uint8 (height, width, 3). labels: uint8 (height, width). Below the image, a legend has
    the classes that occur, with their share of the pixels, the largest first: a color alone does
    not tell a wrong class.
    """
    blended = Image.fromarray(_with_lines(overlay_labels(image, labels, classes), labels))
    counts = np.bincount(labels.ravel(), minlength=256)[: len(classes)]
    order = [index for index in np.argsort(-counts, kind="stable").tolist() if counts[index]]
    entries = [
        (classes[index].color, drawable(f"{classes[index].name} {counts[index] / labels.size:.1%}"))
        for index in order
    ]
    size = max(_SMALLEST_FONT, image.shape[0] // _LINES_PER_IMAGE)
    font = ImageFont.load_default(size)
    width, gap = max(_NARROWEST, image.shape[1]), size // 2
    places, x, y = [], gap, image.shape[0] + gap
    for _, text in entries:
        needed = size + gap + round(font.getlength(text)) + 2 * gap
        if x > gap and x + needed > width:
            x, y = gap, y + size + gap
        places.append((x, y))
        x += needed
    canvas = Image.new("RGB", (width, y + size + gap), "white")
    canvas.paste(blended, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for (color, text), (x, y) in zip(entries, places, strict=True):
        draw.rectangle((x, y, x + size - 1, y + size - 1), fill=color, outline="black")
        draw.text((x + size + gap, y + size / 2), text, "black", font, anchor="lm")
    return np.asarray(canvas)


def _with_lines(pixels: Pixels, labels: Pixels) -> Pixels:
    """Return `pixels` with white lines where `labels` change, in large images with black edges."""
    change = np.zeros(labels.shape, np.bool_)
    change[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    change[:-1] |= labels[:-1] != labels[1:]
    lines = pixels.copy()
    width = min(labels.shape) // _PIXELS_PER_LINE_WIDTH
    if width and change.any():
        lines[ndimage.binary_dilation(change, iterations=2 * width)] = 0
        change = ndimage.binary_dilation(change, iterations=width)
    lines[change] = 255
    return lines
