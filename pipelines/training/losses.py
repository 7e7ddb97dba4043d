"""The loss of an experiment."""

import torch
from torch import Tensor

from models import LossConfig, SegmentationLoss
from models.losses import Loss
from models.user_code import failures_as
from pipelines.data.dataset import Split
from pipelines.errors import UserError


class LossError(UserError, ValueError):
    """A loss that cannot be used; the message says why."""


def build_loss(
    config: LossConfig, frequencies: list[float], image_frequencies: list[float] | None = None
) -> SegmentationLoss:
    """Return the loss.

    frequencies: each class's fraction of the labeled pixels of the training split.
    image_frequencies: its fraction of those of the images that contain it; by default
        `frequencies`.

    Raises:
        LossError: a loss cannot be imported or built, fails on a batch with or without labels, or
            is not finite without labels.
    """
    classes = len(frequencies)
    try:
        criterion = SegmentationLoss(config, classes, frequencies, image_frequencies)
    except ValueError as error:
        raise LossError(str(error)) from error
    ignored = torch.full((2, 8, 8), 255)
    labels = ignored.clone()
    labels[0] = torch.arange(64).reshape(8, 8) % classes
    for term, loss in zip(config.term_configs, criterion.each_loss(), strict=True):
        _try(term.name, loss, classes, labels, "a small batch")
        value = _try(term.name, loss, classes, ignored, "a batch without labels")
        if not value.isfinite():
            raise LossError(f"loss {term.name}: it is {value:g} without labels, expected 0")
    return criterion


def _try(name: str, loss: Loss, classes: int, labels: Tensor, batch: str) -> Tensor:
    """Return the loss of uniform logits, a scalar.

    Raises:
        LossError: it cannot be computed, or has another shape.
    """
    with failures_as(LossError, f"loss {name}: it failed on {batch}"):
        statistics = loss.statistics(torch.zeros(2, classes, 4, 4), labels)
        value = loss.value(statistics)
    if statistics.ndim != 1 or value.ndim != 0:
        raise LossError(
            f"loss {name}: statistics must have one dimension and value none, received "
            f"{tuple(statistics.shape)} and {tuple(value.shape)}"
        )
    return value


def class_frequencies(split: Split) -> list[float]:
    """Return each class's fraction of the labeled pixels of a split; 0 if none is labeled."""
    pixels = split.class_pixels.sum(axis=0)
    return [float(each) / max(1, int(pixels.sum())) for each in pixels]


def image_class_frequencies(split: Split) -> list[float]:
    """Return each class's fraction of the labeled pixels of the images that contain it; 0 for a
    class that does not occur."""
    of_class, labeled = split.class_pixels.sum(axis=0), split.class_pixels.sum(axis=1)
    among = labeled @ (split.class_pixels > 0)
    return [float(each) / max(1, int(pixels)) for each, pixels in zip(of_class, among, strict=True)]
