"""Metrics of the boundaries between classes."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.data.dataset import IGNORE_INDEX
from pipelines.evaluation.metrics import Array, ClassMetric, ratio


class BoundaryF(ClassMetric):
    """Boundary F-score: the mean over the images of `boundary_scores`, then over the classes.

    Statistics: the sum of each class's scores, and the number of images with one.

    Args:
        classes: number of classes.
        tolerance: in pixels.
    """

    def __init__(self, classes: int, tolerance: int = 3) -> None:
        if tolerance < 1:
            raise ValueError(f"tolerance must be at least 1 pixel, received {tolerance}")
        self.classes = classes
        self.tolerance = tolerance

    def statistics(self, prediction: Tensor, labels: Tensor) -> Tensor:
        scores = boundary_scores(prediction, labels, self.classes, self.tolerance)
        return torch.cat([scores.nan_to_num(), (~scores.isnan()).double()])

    def class_scores(self, sums: Array) -> Array:
        return ratio(*np.split(sums, 2, axis=-1))


class BoundaryIoU(ClassMetric):
    """Boundary IoU (Cheng et al., CVPR 2021): IoU of the pixels of each class close to its contour.

    The contour runs between classes and along the image's border, but not along ignored pixels.
    Statistics: intersection and union of each class in pixels.

    Args:
        classes: number of classes.
        distance: from the contour, as a fraction of the image's diagonal, at least one pixel. The
            paper uses 0.02 for COCO and 0.005 for Cityscapes.
    """

    def __init__(self, classes: int, distance: float = 0.02) -> None:
        if not 0 < distance < 1:
            raise ValueError(f"distance must be above 0 and below 1, received {distance}")
        self.classes = classes
        self.distance = distance

    def statistics(self, prediction: Tensor, labels: Tensor) -> Tensor:
        ignored = labels == IGNORE_INDEX
        pixels = max(1, round(self.distance * math.hypot(*labels.shape)))
        sums = torch.zeros(2, self.classes, dtype=torch.double, device=labels.device)
        prediction = torch.where(ignored, IGNORE_INDEX, prediction)
        for index in _occurring(prediction, labels):
            ours, true = (
                mask & _dilate(~(mask | ignored), pixels, outside=True)
                for mask in (prediction == index, labels == index)
            )
            sums[0, index] = (ours & true).sum()
            sums[1, index] = (ours | true).sum()
        return sums.flatten()

    def class_scores(self, sums: Array) -> Array:
        return ratio(*np.split(sums, 2, axis=-1))


def boundary_scores(predicted: Tensor, label: Tensor, classes: int, tolerance: int) -> Tensor:
    """Return the boundary F-score of each class in one image, float64 `(classes,)`.

    A boundary pixel of a class has one of its four neighbors in another class. Precision is the
    share of the prediction's boundary pixels within `tolerance` rows and columns of the label's
    boundary; recall is the share of the label's boundary pixels that close to the prediction's; F
    is their harmonic mean. See Csurka, Larlus and Perronnin, "What is a good evaluation measure for
    semantic segmentation?", BMVC 2013. Ignored pixels are excluded. NaN for a class without a
    boundary in either.

    predicted, label: int64 `(height, width)`.
    """
    predicted = torch.where(label == IGNORE_INDEX, IGNORE_INDEX, predicted)
    edges = [(_on_boundary(each), each) for each in (predicted, label)]
    scores = torch.full((classes,), math.nan, dtype=torch.double, device=label.device)
    for index in _occurring(*(each[edge] for edge, each in edges)):
        ours, true = (edge & (each == index) for edge, each in edges)
        near_true, near_ours = (_dilate(mask, tolerance) for mask in (true, ours))
        precision = (ours & near_true).sum().double() / ours.sum()
        recall = (true & near_ours).sum().double() / true.sum()
        # If only one of the two has a boundary, the score is NaN here and must be 0.
        score = 2 * precision * recall / (precision + recall)
        scores[index] = score.nan_to_num()
    return scores


def _occurring(*classes: Tensor) -> list[int]:
    indices = torch.cat([each.flatten() for each in classes]).unique().tolist()
    return [index for index in indices if index != IGNORE_INDEX]


def _on_boundary(classes: Tensor) -> Tensor:
    """Return where a neighbor above, below, left or right has another class, bool `(h, w)`."""
    boundary = torch.zeros_like(classes, dtype=torch.bool)
    for dimension in (0, 1):
        length = classes.shape[dimension] - 1
        first, second = (classes.narrow(dimension, start, length) for start in (0, 1))
        differ = (first != second) & (first != IGNORE_INDEX) & (second != IGNORE_INDEX)
        for start in (0, 1):
            boundary.narrow(dimension, start, length).logical_or_(differ)
    return boundary


def _dilate(mask: Tensor, distance: int, outside: bool = False) -> Tensor:
    """Return the pixels that are within `distance` rows and columns of `mask`, bool `(h, w)`.

    outside: value of the mask outside of the image.
    """
    grown = F.pad(mask, (distance,) * 4, value=outside)
    for dimension in (0, 1):
        # Double the window until it has 2 * distance + 1 pixels.
        window = 1
        while window <= 2 * distance:
            step = min(window, 2 * distance + 1 - window)
            length = grown.shape[dimension] - step
            first, second = (grown.narrow(dimension, start, length) for start in (0, step))
            grown = first | second
            window += step
    return grown
