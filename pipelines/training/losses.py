"""The loss of an experiment."""

import torch

from models import LossConfig, SegmentationLoss
from models.user_code import failures_as
from pipelines.data.dataset import Split
from pipelines.errors import UserError


class LossError(UserError, ValueError):
    """A loss that cannot be used; the message says why."""


def build_loss(config: LossConfig, frequencies: list[float]) -> SegmentationLoss:
    """Return the loss.

    frequencies: each class's fraction of the labeled pixels of the training split.

    Raises:
        LossError: a loss cannot be imported or built, or fails on a batch without labels.
    """
    classes = len(frequencies)
    try:
        criterion = SegmentationLoss(config, classes, frequencies)
    except ValueError as error:
        raise LossError(str(error)) from error
    labels = torch.full((2, 8, 8), 255)
    labels[0] = torch.arange(64).reshape(8, 8) % classes
    for term, loss in zip(config.term_configs, criterion.each_loss(), strict=True):
        with failures_as(LossError, f"loss {term.name}: it failed on a small batch"):
            statistics = loss.statistics(torch.zeros(2, classes, 4, 4), labels)
            value = loss.value(statistics)
        if statistics.ndim != 1 or value.ndim != 0:
            raise LossError(
                f"loss {term.name}: statistics must have one dimension and value none, received "
                f"{tuple(statistics.shape)} and {tuple(value.shape)}"
            )
    return criterion


def class_frequencies(split: Split) -> list[float]:
    """Return each class's fraction of the labeled pixels of a split; 0 if none is labeled."""
    pixels = split.class_pixels.sum(axis=0)
    return [float(each) / max(1, int(pixels.sum())) for each in pixels]
