"""Label maps as colors: plain, over an image, and where two of them differ."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipelines.data.dataset import IGNORE_INDEX, ClassInfo

Pixels = npt.NDArray[np.uint8]


def colorize(labels: Pixels, classes: Sequence[ClassInfo]) -> Pixels:
    """`labels` uint8 `(height, width)` in the palette, uint8 `(height, width, 3)`.

    Ignored pixels are black.
    """
    palette = np.zeros((256, 3), np.uint8)
    for index, entry in enumerate(classes):
        palette[index] = entry.color
    palette[IGNORE_INDEX] = 0
    return palette[labels]


def overlay(image: Pixels, labels: Pixels, classes: Sequence[ClassInfo]) -> Pixels:
    """The image, uint8 `(height, width, 3)`, half covered by the colours of `labels`."""
    mixed = (image.astype(np.uint16) + colorize(labels, classes)) // 2
    return np.where((labels == IGNORE_INDEX)[..., None], image, mixed).astype(np.uint8)


def mistakes(image: Pixels, label: Pixels, prediction: Pixels) -> Pixels:
    """The image in grey, pixels that are predicted wrong in a strong orange.

    Orange on grey stays apart for every kind of colour vision.
    """
    grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2) * 0.75 + 40
    wrong = (prediction != label) & (label != IGNORE_INDEX)
    grey[wrong] = (255, 120, 0)
    return grey.astype(np.uint8)
