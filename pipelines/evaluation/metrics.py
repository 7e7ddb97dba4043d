"""The contract of a metric, and the metrics of pixel counts.

A metric is a function of statistics, sums over the pixels of an image. The statistics of the images
add up, so a score does not depend on how workers share the images, and can be computed for any
sample of them: the report's intervals draw images again and again.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.counts import class_iou, mean_over_classes

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.float64]


class Metric:
    """The contract of a metric.

    If its constructor has an argument `classes`, it gets the number of classes K.

    Attributes:
        higher_is_better: whether a search keeps the trials with high scores.
        in_percent: whether scores are fractions, which tables show in percent.
    """

    higher_is_better: bool = True
    in_percent: bool = True

    def statistics(self, prediction: "Tensor", labels: "Tensor", *_: Any, **__: Any) -> "Tensor":
        """Return sums over one image, float64 `(S,)`, with the same S for every image.

        They depend on the arguments alone. An argument named `probabilities` gets those of the
        classes, float32 `(K, H, W)`.

        Args:
            prediction: int64 `(H, W)`, classes 0 to K - 1.
            labels: int64 `(H, W)`, classes 0 to K - 1 or 255 for pixels without a class.
        """
        raise NotImplementedError(f"{type(self).__name__} has no statistics")

    def score(self, sums: Array) -> Array:
        """Return the score, `(...)`, from sums over images, float64 `(..., S)`; NaN where it is
        undefined."""
        raise NotImplementedError(f"{type(self).__name__} has no score")


class ClassMetric(Metric):
    """A metric with a score for each class. Its score is their mean, without those that are NaN."""

    def class_scores(self, sums: Array) -> Array:
        """Return the score of each class, `(..., K)`, from sums over images, float64 `(..., S)`;
        NaN for a class that does not occur."""
        raise NotImplementedError(f"{type(self).__name__} has no class_scores")

    def score(self, sums: Array) -> Array:
        return mean_over_classes(self.class_scores(sums))


@dataclass(frozen=True)
class Measured:
    """A metric and its statistics of each scored image, float64 `(images, S)`."""

    key: str
    metric: Metric
    statistics: Array

    @property
    def score(self) -> float:
        """The score over all images; NaN if it is undefined."""
        with undefined_as_nan():
            return float(self.metric.score(self.statistics.sum(axis=0)))

    @property
    def class_scores(self) -> Array | None:
        """The score of each class, `(classes,)`; None if the metric has a single score."""
        if not isinstance(self.metric, ClassMetric):
            return None
        with undefined_as_nan():
            return self.metric.class_scores(self.statistics.sum(axis=0))

    def named_scores(self, classes: Sequence[str]) -> dict[str, float]:
        """Return the score as `KEY` and those of the classes as `KEY/CLASS`, which may be NaN."""
        by_class = self.class_scores
        if by_class is None:
            return {self.key: self.score}
        named = [f"{self.key}/{name}" for name in classes]
        return {self.key: self.score, **dict(zip(named, by_class.tolist(), strict=True))}


class _MeanIoU(ClassMetric):
    """Mean of TP / (TP + FP + FN)."""

    def class_scores(self, sums: Array) -> Array:
        return class_iou(_by_class(sums))


class GroupIoU(ClassMetric):
    """Mean of TP / (TP + FP + FN) over some of the classes. members: their positions."""

    def __init__(self, members: Sequence[int]) -> None:
        self._members = list(members)

    def class_scores(self, sums: Array) -> Array:
        iou = class_iou(_by_class(sums))
        return np.where(np.isin(np.arange(iou.shape[-1]), self._members), iou, np.nan)


class _Dice(ClassMetric):
    """Mean of 2 TP / (2 TP + FP + FN), also called F1."""

    def class_scores(self, sums: Array) -> Array:
        true, false_positive, false_negative = np.moveaxis(_by_class(sums), -1, 0)
        return ratio(2 * true, 2 * true + false_positive + false_negative)


class _PixelAccuracy(Metric):
    """Share of the labeled pixels that are predicted correctly."""

    def score(self, sums: Array) -> Array:
        true, _, false_negative = np.moveaxis(_by_class(sums).sum(axis=-2), -1, 0)
        return ratio(true, true + false_negative)


class _MeanAccuracy(ClassMetric):
    """Mean over the classes in the labels of the share of pixels predicted correctly."""

    def class_scores(self, sums: Array) -> Array:
        true, _, false_negative = np.moveaxis(_by_class(sums), -1, 0)
        return ratio(true, true + false_negative)


class _FrequencyWeightedIoU(Metric):
    """IoU weighted by each class's share of the labeled pixels."""

    def score(self, sums: Array) -> Array:
        counts = _by_class(sums)
        labeled = counts[..., 0] + counts[..., 2]
        # An absent class has weight 0 and IoU NaN.
        iou = np.nan_to_num(class_iou(counts))
        return ratio((iou * labeled).sum(axis=-1), labeled.sum(axis=-1))


#: The metrics of `COUNTED`. Their statistics are the true positives, false positives and false
#: negatives of each class, `(..., 3 K)`.
COUNT_METRICS: dict[str, Metric] = {
    "miou": _MeanIoU(),
    "dice": _Dice(),
    "pixel_accuracy": _PixelAccuracy(),
    "mean_accuracy": _MeanAccuracy(),
    "frequency_weighted_iou": _FrequencyWeightedIoU(),
}


def undefined_as_nan() -> AbstractContextManager[None]:
    """Return a context in which 0 / 0 is NaN without a warning."""
    return np.errstate(divide="ignore", invalid="ignore")


def ratio(numerator: Array, denominator: Array) -> Array:
    """Return `numerator / denominator`, NaN where the denominator is 0."""
    shape = np.shape(denominator)
    return np.divide(numerator, denominator, out=np.full(shape, np.nan), where=denominator > 0)


def _by_class(sums: Array) -> Array:
    return sums.reshape(*sums.shape[:-1], -1, 3)
