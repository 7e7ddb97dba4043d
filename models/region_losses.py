"""Losses of whole regions: Dice, Lovász-softmax and boundaries.

They resize the logits to the labels' size, which takes more memory than cross-entropy in strips.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.losses import Loss, full_size, quotient
from models.upsampled_loss import IGNORE_INDEX


class Dice(Loss):
    """Dice loss, `1 - mean_c (2 I_c + smooth) / (P_c + Y_c + smooth)` (Milletari et al., 3DV 2016).

    For each class c that has a label in the batch: `I_c`, the sum of its probability over its own
    pixels; `P_c`, over all labeled pixels; `Y_c`, the number of its pixels. Adds up: `I`, `P` and
    `Y`, so it is the Dice loss of the whole batch.
    """

    def __init__(self, smooth: float = 1.0) -> None:
        super().__init__()
        if not smooth >= 0:
            raise ValueError(f"smooth must not be negative, received {smooth}")
        self.smooth = smooth

    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        probabilities, members = _probabilities_and_members(logits, labels)
        own = (probabilities * members).sum(dim=(0, 2, 3))
        return torch.cat([own, probabilities.sum(dim=(0, 2, 3)), members.sum(dim=(0, 2, 3))])

    def value(self, statistics: Tensor) -> Tensor:
        own, predicted, labeled = statistics.chunk(3)
        total = torch.where(labeled > 0, predicted + labeled + self.smooth, 0)
        return _mean(1 - quotient(2 * own + self.smooth, total), labeled > 0)


class Lovasz(Loss):
    """Lovász-softmax loss of each image (Berman et al., CVPR 2018).

    For each class that has a label in the image, the convex extension of its Jaccard loss, at the
    errors of the probabilities. Adds up: the sum over the images with a label of their means over
    classes, and the number of these images.
    """

    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        probabilities, members = _probabilities_and_members(logits, labels)
        losses = [
            _lovasz(p.flatten(start_dim=1), m.flatten(start_dim=1))
            for p, m in zip(probabilities, members, strict=True)
        ]
        labeled = (labels != IGNORE_INDEX).flatten(start_dim=1).any(dim=1).sum()
        return torch.stack([torch.stack(losses).sum(), labeled])

    def value(self, statistics: Tensor) -> Tensor:
        return statistics[0] / statistics[1].clamp(min=1)


class Boundary(Loss):
    """One minus the F-score of soft boundaries (Bokhovkin and Burnaev, ISNN 2019).

    The boundary of a class is where the maximum of one minus its probability over the neighboring
    pixels exceeds the value at the pixel. Precision and recall count boundaries within `tolerance`
    pixels of each other, for each class that has a boundary in the labels of the batch. Pixels near
    ignored ones do not count. Adds up: the four sums of precision and recall of each class.
    """

    def __init__(self, tolerance: int = 3) -> None:
        super().__init__()
        if tolerance < 1:
            raise ValueError(f"tolerance must be at least 1 pixel, received {tolerance}")
        self.tolerance = tolerance

    def statistics(self, logits: Tensor, labels: Tensor) -> Tensor:
        probabilities, members = _probabilities_and_members(logits, labels)
        ignored = (labels == IGNORE_INDEX)[:, None].to(probabilities.dtype)
        counted = 1 - _maximum(ignored, self.tolerance + 1)
        predicted, labeled = (_maximum(1 - x, 1) - (1 - x) for x in (probabilities, members))
        predicted, labeled = predicted * counted, labeled * counted
        near_predicted, near_labeled = (_maximum(x, self.tolerance) for x in (predicted, labeled))
        sums = (predicted * near_labeled, predicted, labeled * near_predicted, labeled)
        return torch.cat([each.sum(dim=(0, 2, 3)) for each in sums])

    def value(self, statistics: Tensor) -> Tensor:
        hits, predicted, found, labeled = statistics.chunk(4)
        tiny = torch.finfo(statistics.dtype).eps
        precision, recall = hits / (predicted + tiny), found / (labeled + tiny)
        f_score = 2 * precision * recall / (precision + recall + tiny)
        return _mean(1 - f_score, labeled > 0)


def _probabilities_and_members(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probabilities and the one-hot labels, `(N, K, H, W)`, both 0 where ignored."""
    probabilities = full_size(logits, labels).softmax(dim=1)
    classes = torch.arange(logits.shape[1], device=labels.device)[:, None, None]
    members = (labels[:, None] == classes).to(probabilities.dtype)
    return probabilities * (labels != IGNORE_INDEX)[:, None], members


def _lovasz(probabilities: Tensor, members: Tensor) -> Tensor:
    """Return the mean over the occurring classes of an image, from `(K, pixels)`."""
    errors = (members - probabilities).abs()
    with torch.no_grad():
        order = errors.argsort(dim=1, descending=True, stable=True)
        # Integers, because sums of floats along an axis are not deterministic on CUDA.
        hits = members.gather(1, order).long().cumsum(dim=1)
        pixels = torch.arange(1, errors.shape[1] + 1, device=errors.device)
        total = hits[:, -1:]
        jaccard = 1 - (total - hits).to(errors.dtype) / (total + pixels - hits)
        steps = torch.diff(jaccard, dim=1, prepend=jaccard.new_zeros(len(jaccard), 1))
        weights = torch.empty_like(errors).scatter_(1, order, steps)
    return _mean((errors * weights).sum(dim=1), members.any(dim=1))


def _maximum(values: Tensor, distance: int) -> Tensor:
    """Return the maximum over the square of pixels within `distance`."""
    return F.max_pool2d(values, 2 * distance + 1, stride=1, padding=distance)


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """Return the mean over the values that count, 0 if there is none."""
    return torch.where(counted, values, 0).sum() / counted.sum().clamp(min=1)
