"""Metrics of a segmentation, and the counts they are computed from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from pipelines.data.dataset import IGNORE_INDEX
from pipelines.evaluation.counts import ImageCounts, class_iou, mean_over_classes


@dataclass(frozen=True)
class Scores:
    """Metrics of a confusion matrix, all in [0, 1].

    confusion: int64 `(classes, classes)`, row = label, column = prediction, in pixels.
    images: the counts of each image; None if only the matrix is available.
    boundary: float64 `(classes,)`, see `boundary_scores`; None if it was not computed.
    """

    confusion: Tensor
    images: ImageCounts | None = None
    boundary: Tensor | None = None

    @property
    def iou(self) -> Tensor:
        """IoU per class, float64 `(classes,)`, as `class_iou` defines it."""
        return torch.from_numpy(class_iou(class_counts(self.confusion).numpy()))

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that occur in a label or a prediction."""
        return _mean(self.iou)

    @property
    def pixel_accuracy(self) -> float:
        """Share of the labeled pixels that are predicted correctly."""
        matrix = self.confusion.double()
        return float(matrix.diagonal().sum() / matrix.sum())

    @property
    def mean_accuracy(self) -> float:
        """Mean over the classes in the labels of the share of pixels predicted correctly."""
        matrix = self.confusion.double()
        return _mean(matrix.diagonal() / matrix.sum(dim=1))

    @property
    def frequency_weighted_iou(self) -> float:
        """IoU weighted by each class's share of the labeled pixels."""
        labeled = self.confusion.double().sum(dim=1)
        # An absent class has weight 0 and IoU NaN.
        return float((self.iou.nan_to_num() * labeled).sum() / labeled.sum())

    @property
    def mean_boundary(self) -> float | None:
        """Mean boundary F-score over the classes that occur in a label or a prediction."""
        return None if self.boundary is None else _mean(self.boundary)

    def metrics(self, classes: Sequence[str]) -> dict[str, float]:
        """Return all metrics by name, without those that are NaN (the IoU of an absent class)."""
        named = {
            "miou": self.miou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "frequency_weighted_iou": self.frequency_weighted_iou,
            **_by_class("iou", self.iou, classes),
        }
        if self.boundary is not None:
            named |= {"boundary_f": _mean(self.boundary)}
            named |= _by_class("boundary_f", self.boundary, classes)
        return {name: value for name, value in named.items() if not math.isnan(value)}


class ScoreState(Metric):
    """The counts behind `Scores`, collected by torchmetrics and summed over all workers.

    Each image has its own rows, which only the worker that scores it fills.

    Args:
        classes: number of classes.
        images: number of images in the whole split, over all workers.
        boundary: tolerance in pixels of the boundary F-score; 0 to skip it.
    """

    full_state_update = False
    confusion: Tensor
    counts: Tensor
    seen: Tensor
    boundary_f: Tensor
    boundary_present: Tensor

    def __init__(self, classes: int, images: int, boundary: int = 0) -> None:
        super().__init__()
        self.classes = classes
        self.boundary = boundary
        integers = torch.int64
        self.add_state("confusion", torch.zeros(classes, classes, dtype=integers), "sum")
        self.add_state("counts", torch.zeros(images, classes, 3, dtype=integers), "sum")
        self.add_state("seen", torch.zeros(images, dtype=integers), "sum")
        if boundary:
            self.add_state("boundary_f", torch.zeros(images, classes, dtype=torch.double), "sum")
            self.add_state("boundary_present", torch.zeros(images, classes, dtype=integers), "sum")

    def update(self, prediction: Tensor, labels: Tensor, positions: Tensor) -> None:
        """Count a batch of images. Raises ValueError if a label is not a class.

        prediction, labels: int64 `(batch, height, width)`.
        positions: int64 `(batch,)`, positions of the images in the split, on any device.
        """
        for predicted, label, position in zip(prediction, labels, positions.tolist(), strict=True):
            matrix = self._confusion(predicted, label)
            self.confusion += matrix
            self.counts[position] += class_counts(matrix)
            self.seen[position] += 1
            if self.boundary:
                scores = boundary_scores(predicted, label, self.classes, self.boundary)
                self.boundary_f[position] += scores.nan_to_num()
                self.boundary_present[position] += ~scores.isnan()

    def compute(self) -> dict[str, Tensor]:
        """Return the states, which torchmetrics has reduced over the workers."""
        return {name: getattr(self, name) for name in self._defaults}

    def scores(self) -> Scores:
        """Return the scores over all workers, on the CPU; every worker must call this.

        Raises RuntimeError if an image was not counted exactly once.
        """
        states = {
            # torchmetrics drops the dimensions of a tensor with a single value.
            name: tensor.cpu().reshape(self._defaults[name].shape)
            for name, tensor in self.compute().items()
        }
        if bool((states["seen"] != 1).any()):
            raise RuntimeError(
                f"{int((states['seen'] == 0).sum())} images were not counted, and "
                f"{int((states['seen'] > 1).sum())} more than once; the workers' batches must "
                "partition the split"
            )
        positions = torch.arange(len(states["seen"]))
        boundary = None
        if self.boundary:
            boundary = states["boundary_f"].sum(dim=0) / states["boundary_present"].sum(dim=0)
        images = ImageCounts(positions, states["counts"][positions])
        return Scores(states["confusion"], images, boundary)

    def _confusion(self, predicted: Tensor, label: Tensor) -> Tensor:
        labeled = label != IGNORE_INDEX
        cells = label[labeled] * self.classes + predicted[labeled]
        matrix = torch.bincount(cells, minlength=self.classes**2)
        if len(matrix) > self.classes**2:
            raise ValueError(
                f"a label contains class {int(label[labeled].max())}, but the {self.classes} "
                f"classes are 0 to {self.classes - 1}"
            )
        return matrix.reshape(self.classes, self.classes)


def class_counts(confusion: Tensor) -> Tensor:
    """Return true positives, false positives, false negatives, int64 `(classes, 3)`.

    confusion: int64 `(classes, classes)`, row = label, column = prediction.
    """
    true = confusion.diagonal()
    return torch.stack([true, confusion.sum(dim=0) - true, confusion.sum(dim=1) - true], dim=1)


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
    occurring = torch.cat([each[edge] for edge, each in edges]).unique().tolist()
    for index in occurring:
        ours, true = (edge & (each == index) for edge, each in edges)
        near_true, near_ours = (_dilate(mask, tolerance) for mask in (true, ours))
        precision = (ours & near_true).sum().double() / ours.sum()
        recall = (true & near_ours).sum().double() / true.sum()
        # If only one of the two has a boundary, the score is NaN here and must be 0.
        score = 2 * precision * recall / (precision + recall)
        scores[index] = score.nan_to_num()
    return scores


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


def _dilate(mask: Tensor, tolerance: int) -> Tensor:
    """Return the pixels that are within `tolerance` rows and columns of `mask`."""
    grown = mask[None, None].float()
    for size in ((2 * tolerance + 1, 1), (1, 2 * tolerance + 1)):
        grown = F.max_pool2d(grown, size, stride=1, padding=(size[0] // 2, size[1] // 2))
    return grown[0, 0] > 0


def _by_class(name: str, values: Tensor, classes: Sequence[str]) -> dict[str, float]:
    return {f"{name}/{entry}": value for entry, value in zip(classes, values.tolist(), strict=True)}


def _mean(values: Tensor) -> float:
    return float(mean_over_classes(values.cpu().numpy()))
