"""The figures by which a segmentation is judged, and the counts they follow from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from pipelines.data.dataset import IGNORE_INDEX


@dataclass(frozen=True)
class ImageCounts:
    """Pixels by image and class.

    positions: int64 `(images,)`, of the images in their split. counts: int64
    `(images, classes, 3)`: true positives, false positives, false negatives.
    """

    positions: Tensor
    counts: Tensor


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says. All values are in [0, 1]; an absent class has IoU NaN.

    confusion: int64 `(classes, classes)`, row = label, column = prediction, in pixels.
    images: the counts of each image; None where only the matrix is known.
    boundary: float64 `(classes,)`, see `boundary_scores`; None where it was not asked for.
    """

    confusion: Tensor
    images: ImageCounts | None = None
    boundary: Tensor | None = None

    @property
    def iou(self) -> Tensor:
        """Intersection over union per class, float64 `(classes,)`; NaN where a class occurs
        neither in the labels nor in the predictions."""
        matrix = self.confusion.double()
        intersection = matrix.diagonal()
        return intersection / (matrix.sum(dim=0) + matrix.sum(dim=1) - intersection)

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that occur in a label or a prediction."""
        return _mean(self.iou)

    @property
    def pixel_accuracy(self) -> float:
        """Share of the labelled pixels that are predicted right."""
        matrix = self.confusion.double()
        return float(matrix.diagonal().sum() / matrix.sum())

    @property
    def mean_accuracy(self) -> float:
        """Share of a class's pixels that are predicted right, mean over the labels' classes."""
        matrix = self.confusion.double()
        return _mean(matrix.diagonal() / matrix.sum(dim=1))

    @property
    def frequency_weighted_iou(self) -> float:
        """IoU weighted by each class's share of the labelled pixels."""
        labelled = self.confusion.double().sum(dim=1)
        # An absent class weighs nothing, and its IoU is NaN.
        return float((self.iou.nan_to_num() * labelled).sum() / labelled.sum())

    @property
    def mean_boundary(self) -> float | None:
        """Mean boundary F-score over the classes that occur in a label or a prediction."""
        return None if self.boundary is None else _mean(self.boundary)

    def metrics(self, classes: Sequence[str]) -> dict[str, float]:
        """All figures by name; what is NaN, such as the IoU of an absent class, is left out."""
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
    """The counts behind `Scores`, gathered by torchmetrics and summed over all workers.

    Every image has rows of its own, which only the worker that sees it fills.

    Args:
        classes: K.
        images: in the whole split, over all workers.
        boundary: tolerance in pixels of the boundary F-score; 0 leaves it out.
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
        """Add images. prediction, labels: int64 `(batch, height, width)`; positions: int64
        `(batch,)`, on any device. Raises ValueError where a label is no class."""
        for predicted, label, position in zip(prediction, labels, positions.tolist(), strict=True):
            matrix = self._confusion(predicted, label)
            true = matrix.diagonal()
            wrong = (matrix.sum(dim=0) - true, matrix.sum(dim=1) - true)
            self.confusion += matrix
            self.counts[position] += torch.stack([true, *wrong], dim=1)
            self.seen[position] += 1
            if self.boundary:
                scores = boundary_scores(predicted, label, self.classes, self.boundary)
                self.boundary_f[position] += scores.nan_to_num()
                self.boundary_present[position] += ~scores.isnan()

    def compute(self) -> dict[str, Tensor]:
        """The states, as torchmetrics has reduced them over the workers."""
        return {name: getattr(self, name) for name in self._defaults}

    def scores(self) -> Scores:
        """The figures over all workers, on the CPU; every worker must ask for them.

        Raises RuntimeError where an image was not counted, or more than once.
        """
        states = {
            # torchmetrics hands out a tensor of one value without its dimensions.
            name: tensor.cpu().reshape(self._defaults[name].shape)
            for name, tensor in self.compute().items()
        }
        if bool((states["seen"] != 1).any()):
            raise RuntimeError(
                f"{int((states['seen'] == 0).sum())} images were not counted, and "
                f"{int((states['seen'] > 1).sum())} more than once; the workers' batches must be "
                "parts of the whole split"
            )
        positions = torch.arange(len(states["seen"]))
        boundary = None
        if self.boundary:
            boundary = states["boundary_f"].sum(dim=0) / states["boundary_present"].sum(dim=0)
        images = ImageCounts(positions, states["counts"][positions])
        return Scores(states["confusion"], images, boundary)

    def _confusion(self, predicted: Tensor, label: Tensor) -> Tensor:
        labelled = label != IGNORE_INDEX
        cells = label[labelled] * self.classes + predicted[labelled]
        matrix = torch.bincount(cells, minlength=self.classes**2)
        if len(matrix) > self.classes**2:
            raise ValueError(
                f"a label holds class {int(label[labelled].max())}, and there are "
                f"{self.classes} classes, from 0"
            )
        return matrix.reshape(self.classes, self.classes)


def boundary_scores(predicted: Tensor, label: Tensor, classes: int, tolerance: int) -> Tensor:
    """Boundary F-score per class of one image, float64 `(classes,)`.

    A boundary pixel of a class has one of its four neighbours in another class. Precision is the
    share of the prediction's boundary that lies within `tolerance` pixels, in rows and in columns,
    of the label's; recall the share of the label's near the prediction's; F their harmonic mean,
    after Csurka, Larlus and Perronnin, "What is a good evaluation measure for semantic
    segmentation?", BMVC 2013. Ignored pixels take no part. NaN for a class that has no boundary in
    either.

    predicted, label: int64 `(height, width)`.
    """
    predicted = torch.where(label == IGNORE_INDEX, IGNORE_INDEX, predicted)
    edges = [(_on_boundary(each), each) for each in (predicted, label)]
    scores = torch.full((classes,), math.nan, dtype=torch.double, device=label.device)
    occurring = torch.cat([each[edge] for edge, each in edges]).unique().tolist()
    for index in occurring:
        found, true = (edge & (each == index) for edge, each in edges)
        near_true, near_found = (_dilate(mask, tolerance) for mask in (true, found))
        precise = (found & near_true).sum().double() / found.sum()
        recalled = (true & near_found).sum().double() / true.sum()
        # One is NaN where only the other has a boundary: nothing of it is found.
        score = 2 * precise * recalled / (precise + recalled)
        scores[index] = score.nan_to_num()
    return scores


def _on_boundary(classes: Tensor) -> Tensor:
    """bool `(height, width)`: a neighbour above, below, left or right is of another class."""
    boundary = torch.zeros_like(classes, dtype=torch.bool)
    for dimension in (0, 1):
        length = classes.shape[dimension] - 1
        first, second = (classes.narrow(dimension, start, length) for start in (0, 1))
        differ = (first != second) & (first != IGNORE_INDEX) & (second != IGNORE_INDEX)
        for start in (0, 1):
            boundary.narrow(dimension, start, length).logical_or_(differ)
    return boundary


def _dilate(mask: Tensor, tolerance: int) -> Tensor:
    """`mask` with every pixel that has one of it within `tolerance` rows and columns."""
    grown = mask[None, None].float()
    for size in ((2 * tolerance + 1, 1), (1, 2 * tolerance + 1)):
        grown = F.max_pool2d(grown, size, stride=1, padding=(size[0] // 2, size[1] // 2))
    return grown[0, 0] > 0


def _by_class(name: str, values: Tensor, classes: Sequence[str]) -> dict[str, float]:
    return {f"{name}/{entry}": value for entry, value in zip(classes, values.tolist(), strict=True)}


def _mean(values: Tensor) -> float:
    """Mean of what is not NaN, added up in order, as the benchmarks' scripts do."""
    kept = [value for value in values.tolist() if not math.isnan(value)]
    total = 0.0
    for value in kept:
        total += value
    return total / len(kept) if kept else math.nan
