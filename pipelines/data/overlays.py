"""Label maps as colors: plain, over an image, and with the wrong pixels marked."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipelines.data.dataset import IGNORE_INDEX
from pipelines.data.manifest import ClassInfo

Pixels = npt.NDArray[np.uint8]


def colorize(labels: Pixels, classes: Sequence[ClassInfo]) -> Pixels:
    """Map `labels`, uint8 (height, width), to the colors of `classes`, uint8 (height, width, 3).

    Ignored pixels are black.
    """
    palette = np.zeros((256, 3), np.uint8)
    for index, entry in enumerate(classes):
        palette[index] = entry.color
    palette[IGNORE_INDEX] = 0
    return palette[labels]


def overlay_labels(image: Pixels, labels: Pixels, classes: Sequence[ClassInfo]) -> Pixels:
    """Blend the image, uint8 (height, width, 3), half and half with the colors of `labels`.

    Ignored pixels show the image.
    """
    mixed = (image.astype(np.uint16) + colorize(labels, classes)) // 2
    return np.where((labels == IGNORE_INDEX)[..., None], image, mixed).astype(np.uint8)


def drawable(text: str) -> str:
    """Replace the characters that Pillow's built-in font lacks."""
    return text.encode("latin-1", "replace").decode("latin-1")


def mistakes(image: Pixels, label: Pixels, prediction: Pixels) -> Pixels:
    """Return the image in gray with wrongly predicted pixels in strong orange.

    Orange on gray is distinguishable for all types of color vision.
    """
    marked = image.mean(axis=2, keepdims=True).repeat(3, axis=2) * 0.75 + 40
    wrong = (prediction != label) & (label != IGNORE_INDEX)
    marked[wrong] = (255, 120, 0)
    return marked.astype(np.uint8)
