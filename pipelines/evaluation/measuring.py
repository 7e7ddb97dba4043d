"""Builds the metrics that a configuration names, and applies them to images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from models.registry import takes_argument
from models.user_code import describe, failures_as
from pipelines.data.dataset import IGNORE_INDEX
from pipelines.errors import UserError, is_out_of_memory
from pipelines.evaluation.config import METRICS, MetricConfig
from pipelines.evaluation.metrics import Array, ClassMetric, Metric, undefined_as_nan


class MetricError(UserError, ValueError):
    """A metric that cannot be used; the message says why."""


@dataclass(frozen=True)
class ImageMetric:
    """A metric that measures one image at a time.

    length: number S of its statistics; 0 if it is not known yet.
    takes_probabilities: whether its statistics need the probabilities of the classes.
    """

    key: str
    metric: Metric
    takes_probabilities: bool
    length: int = 0

    def statistics(self, prediction: Tensor, labels: Tensor, probabilities: Tensor) -> Tensor:
        """Return the statistics of an image, float64 `(S,)`.

        prediction, labels: int64 `(H, W)`. probabilities: float32 `(K, H, W)`, only used if
        `takes_probabilities`.

        Raises:
            MetricError: the metric fails, or returns something else.
        """
        more = {"probabilities": probabilities} if self.takes_probabilities else {}
        try:
            result = self.metric.statistics(prediction, labels, **more)
        except (Exception, SystemExit) as error:
            # The lack of memory keeps its class, because it may be temporary.
            kind = MemoryError if is_out_of_memory(error) else MetricError
            height, width = labels.shape
            raise kind(
                f"metric {self.key}: it failed on an image of {height} x {width} pixels "
                f"({describe(error)})"
            ) from error
        if not isinstance(result, Tensor):
            received = type(result).__name__
        elif result.dtype != torch.double or result.ndim != 1 or not len(result):
            received = f"{result.dtype} {tuple(result.shape)}".removeprefix("torch.")
        elif self.length and len(result) != self.length:
            received = f"{len(result)}"
        elif not bool(result.isfinite().all()):
            received = "values that are not finite"
        else:
            return result.to(labels.device)  # of a metric that computes with NumPy
        length = f"{self.length}," if self.length else "S,"
        raise MetricError(
            f"metric {self.key}: statistics must be finite sums, float64 ({length}), received "
            f"{received}"
        )


def metric_class(config: MetricConfig) -> type[Metric]:
    """Import the class of a metric.

    Raises:
        MetricError: the import fails, or the arguments do not fit the class.
    """
    try:
        cls: type[Metric] = METRICS.find(config.name)
        passed = {"classes": "the number of the data set's classes"}
        METRICS.check_arguments(config.name, cls, config.arguments, passed)
    except ValueError as error:
        raise MetricError(str(error)) from error
    return cls


def build_metric(config: MetricConfig, classes: int) -> Metric:
    """Return a metric.

    Raises:
        MetricError: it cannot be imported or built.
    """
    cls = metric_class(config)
    passed = {"classes": classes} if takes_argument(cls, "classes") else {}
    with failures_as(MetricError, f"metric {config.name}: its constructor failed"):
        return cls(**config.arguments, **passed)


def build_metrics(configs: Sequence[MetricConfig], classes: int) -> list[ImageMetric]:
    """Return metrics, after they measured two small images, one of them without a labeled pixel.

    Raises:
        MetricError: a metric cannot be imported or built, or breaks the contract.
    """
    return [_checked(config, build_metric(config, classes), classes) for config in configs]


def _checked(config: MetricConfig, metric: Metric, classes: int) -> ImageMetric:
    image_metric = ImageMetric(
        config.key, metric, takes_argument(metric.statistics, "probabilities")
    )
    labels = torch.arange(64).reshape(8, 8) % classes
    first = _repeated_statistics(image_metric, labels, classes)
    image_metric = replace(image_metric, length=len(first))
    unlabeled = torch.full_like(labels, IGNORE_INDEX)
    second = _repeated_statistics(image_metric, unlabeled, classes)
    sums = torch.stack([first, second]).numpy()
    _check_score(image_metric, np.stack([sums, 3 * sums[::-1]]), classes)
    return image_metric


def _repeated_statistics(image_metric: ImageMetric, labels: Tensor, classes: int) -> Tensor:
    """Return the statistics of a small image, after checking that they depend on it alone.

    labels: int64 `(8, 8)`.
    """
    prediction = torch.arange(64).reshape(8, 8).roll(1, dims=1) % classes
    given = prediction, labels, torch.full((classes, 8, 8), 1 / classes)
    passed = [each.clone() for each in given]
    statistics = image_metric.statistics(*passed)
    if not all(map(torch.equal, passed, given)):
        raise MetricError(
            f"metric {image_metric.key}: statistics must not change its arguments, which other "
            "metrics get too; change a copy, such as labels.clone()"
        )
    if not torch.equal(image_metric.statistics(*passed), statistics):
        raise MetricError(
            f"metric {image_metric.key}: statistics must depend on its arguments alone, but two "
            "calls with the same image gave different sums; remove its state or randomness"
        )
    return statistics


def _check_score(image_metric: ImageMetric, sums: Array, classes: int) -> None:
    """Check that a metric computes the scores of several sums as it computes each by itself.

    sums: float64 `(2, 2, S)`.
    """
    metric, key = image_metric.metric, image_metric.key
    shape: tuple[int, ...]
    name, function, shape = "score", metric.score, ()
    if isinstance(metric, ClassMetric):
        if type(metric).score is not ClassMetric.score:
            raise MetricError(
                f"metric {key}: the score of a ClassMetric is the mean over its classes, but it "
                "has another; remove `score`, or derive it from Metric"
            )
        name, function, shape = "class_scores", metric.class_scores, (classes,)
    failure = f"metric {key}: {name} failed on sums of shape {sums.shape}"
    with failures_as(MetricError, failure), undefined_as_nan():
        scores = np.asarray(function(sums), np.float64)
        alone = np.asarray(function(sums[0, 0]), np.float64)
    if scores.shape != (2, 2, *shape) or alone.shape != shape:
        raise MetricError(
            f"metric {key}: {name} of sums {sums.shape} must have shape {(2, 2, *shape)}, and of "
            f"sums {sums.shape[2:]} shape {shape}; received {scores.shape} and {alone.shape}"
        )
    if not np.array_equal(scores[0, 0], alone, equal_nan=True):
        raise MetricError(
            f"metric {key}: {name} must treat each of several sums by itself; index the last "
            "dimension of the sums with [..., i]"
        )
