"""A custom metric: IoU near the boundaries between labels (Kohli et al., IJCV 2009)."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipelines.evaluation.metrics import ClassMetric

IGNORED = 255


class TrimapIoU(ClassMetric):
    """IoU of the labeled pixels that have another label within `width` rows and columns.

    Statistics: intersection and union of each class in pixels.
    """

    def __init__(self, classes: int, width: int = 3) -> None:
        self.classes = classes
        self.width = width

    def statistics(self, prediction: Tensor, labels: Tensor) -> Tensor:
        pixels = labels.float().masked_fill(labels == IGNORED, -torch.inf)
        highest = self._highest(pixels)
        lowest = -self._highest(-pixels.masked_fill(labels == IGNORED, torch.inf))
        band = (highest != lowest) & (labels != IGNORED)
        ours, true = prediction[band], labels[band]
        both = torch.bincount(true[ours == true], minlength=self.classes)
        each = (torch.bincount(part, minlength=self.classes) for part in (ours, true))
        return torch.cat([both, sum(each) - both]).double()

    def class_scores(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        intersection, union = np.split(sums, 2, axis=-1)
        return np.where(union > 0, intersection / np.maximum(union, 1), np.nan)

    def _highest(self, pixels: Tensor) -> Tensor:
        """Return the highest value within `width` rows and columns, (H, W)."""
        return F.max_pool2d(pixels[None], 2 * self.width + 1, stride=1, padding=self.width)[0]
