"""Metrics of a network's probabilities."""

import numpy as np
import torch
from torch import Tensor

from pipelines.data.dataset import IGNORE_INDEX
from pipelines.evaluation.metrics import Array, Metric, ratio


class CalibrationError(Metric):
    """Expected calibration error over all labeled pixels (Guo et al., ICML 2017).

    Pixels are divided into bins by confidence, the probability of the predicted class. The error is
    the mean over the pixels of the difference between confidence and accuracy of their bins.
    Statistics: pixels, correct pixels and the sum of the confidences of each bin.

    Args:
        bins: number of bins of equal width.
    """

    higher_is_better = False

    def __init__(self, bins: int = 15) -> None:
        if bins < 1:
            raise ValueError(f"bins must be at least 1, received {bins}")
        self.bins = bins

    def statistics(self, prediction: Tensor, labels: Tensor, probabilities: Tensor) -> Tensor:
        labeled = labels != IGNORE_INDEX
        confidence = probabilities.amax(dim=0)[labeled].double()
        bins = (confidence * self.bins).long().clamp(max=self.bins - 1)
        correct = bins[(prediction == labels)[labeled]]
        counts = [torch.bincount(each, minlength=self.bins).double() for each in (bins, correct)]
        # A weighted `bincount` would add in another order each time on a GPU.
        sums = [confidence[bins == index].sum() for index in range(self.bins)]
        return torch.cat([*counts, torch.stack(sums)])

    def score(self, sums: Array) -> Array:
        pixels, correct, confidence = np.split(sums, 3, axis=-1)
        return ratio(abs(confidence - correct).sum(axis=-1), pixels.sum(axis=-1))
