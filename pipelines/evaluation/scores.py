"""The scores of an evaluation, and the statistics of each image that they are computed from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torchmetrics
from torch import Tensor

from pipelines.data.dataset import IGNORE_INDEX
from pipelines.evaluation.counts import ImageCounts, class_iou
from pipelines.evaluation.measuring import ImageMetric
from pipelines.evaluation.metrics import COUNT_METRICS, Measured


@dataclass(frozen=True)
class Scores:
    """Metrics of a confusion matrix, all in [0, 1], and further ones.

    confusion: int64 `(classes, classes)`, row = label, column = prediction, in pixels.
    images: the counts of each image; None if only the matrix is available.
    measured: the metrics that need more than the counts, with their statistics of each image.
    """

    confusion: Tensor
    images: ImageCounts | None = None
    measured: tuple[Measured, ...] = ()

    @property
    def iou(self) -> Tensor:
        """IoU per class, float64 `(classes,)`, as `class_iou` defines it."""
        return torch.from_numpy(class_iou(class_counts(self.confusion).numpy()))

    @property
    def counted(self) -> dict[str, float]:
        """The metrics of the counts, `COUNT_METRICS`, by name."""
        sums = class_counts(self.confusion).flatten().double().numpy()
        return {name: float(metric.score(sums)) for name, metric in COUNT_METRICS.items()}

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that occur in a label or a prediction."""
        return self.counted["miou"]

    @property
    def class_scores(self) -> dict[str, np.ndarray]:
        """The scores of each class, float64 `(classes,)`, by metric; NaN for an absent class."""
        by_class = {each.key: each.class_scores for each in self.measured}
        return {"iou": self.iou.numpy()} | {
            key: scores for key, scores in by_class.items() if scores is not None
        }

    def metrics(self, classes: Sequence[str]) -> dict[str, float]:
        """Return all metrics by name, without those that are not finite (the IoU of an absent class
        is NaN)."""
        named = self.counted
        named |= {f"iou/{name}": v for name, v in zip(classes, self.iou.tolist(), strict=True)}
        for each in self.measured:
            named |= each.named_scores(classes)
        return {name: value for name, value in named.items() if math.isfinite(value)}


class ScoreState(torchmetrics.Metric):
    """The statistics behind `Scores`, collected by torchmetrics and summed over all workers.

    Each image has its own rows, which only the worker that scores it fills.

    Args:
        classes: number of classes.
        images: number of images in the whole split, over all workers.
        measured: metrics that need more than the counts.
    """

    full_state_update = False
    confusion: Tensor
    counts: Tensor
    seen: Tensor

    def __init__(self, classes: int, images: int, measured: Sequence[ImageMetric] = ()) -> None:
        super().__init__()
        self.classes = classes
        self.measured = tuple(measured)
        integers = torch.int64
        self.add_state("confusion", torch.zeros(classes, classes, dtype=integers), "sum")
        self.add_state("counts", torch.zeros(images, classes, 3, dtype=integers), "sum")
        self.add_state("seen", torch.zeros(images, dtype=integers), "sum")
        for index, metric in enumerate(self.measured):
            zeros = torch.zeros(images, metric.length, dtype=torch.double)
            self.add_state(f"statistics_{index}", zeros, "sum")

    @property
    def takes_probabilities(self) -> bool:
        """Whether a metric needs the probabilities of the classes."""
        return any(metric.takes_probabilities for metric in self.measured)

    def update(
        self,
        prediction: Tensor,
        labels: Tensor,
        positions: Tensor,
        probabilities: Tensor | None = None,
    ) -> None:
        """Count a batch of images. Raises ValueError if a label is not a class.

        prediction, labels: int64 `(batch, height, width)`.
        positions: int64 `(batch,)`, positions of the images in the split, on any device.
        probabilities: float32 `(batch, classes, height, width)`, if `takes_probabilities`.
        """
        for row, position in enumerate(positions.tolist()):
            predicted, label = prediction[row], labels[row]
            matrix = self._confusion(predicted, label)
            self.confusion += matrix
            self.counts[position] += class_counts(matrix)
            self.seen[position] += 1
            chances = predicted.new_empty(0) if probabilities is None else probabilities[row]
            for index, metric in enumerate(self.measured):
                statistics = metric.statistics(predicted, label, chances)
                getattr(self, f"statistics_{index}")[position] += statistics

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
        images = ImageCounts(positions, states["counts"][positions])
        return Scores(states["confusion"], images, self._all_measured(states))

    def _all_measured(self, states: Mapping[str, Tensor]) -> tuple[Measured, ...]:
        return tuple(
            Measured(each.key, each.metric, states[f"statistics_{index}"].numpy())
            for index, each in enumerate(self.measured)
        )

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
