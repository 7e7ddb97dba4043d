"""The loss of an experiment."""

import torch
from torch import Tensor, nn

from models import LossConfig, SegmentationLoss
from models.losses import ByWorker, Loss
from models.user_code import failures_as
from pipelines.data.dataset import Split
from pipelines.data.seeding import seeded_generators
from pipelines.errors import UserError

_CPU = torch.device("cpu")


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
        LossError: a loss cannot be imported or built, has a parameter to train, fails on a batch
            with or without labels, is not finite without labels, or depends on earlier batches.
    """
    classes = len(frequencies)

    def build() -> SegmentationLoss:
        # All workers get the same values if a constructor draws them.
        with seeded_generators(0, _CPU):
            return SegmentationLoss(config, classes, frequencies, image_frequencies)

    try:
        # The checks may leave traces in a loss, so the returned one is not checked.
        criterion, used, fresh = (build() for _ in range(3))
    except ValueError as error:
        raise LossError(str(error)) from error
    names = [term.name for term in config.term_configs]
    for name, loss, same in zip(names, used.each_loss(), fresh.each_loss(), strict=True):
        _check_parameters(name, loss)
        _check_on_sample_batches(name, loss, same, classes)
    return criterion


def _check_parameters(name: str, loss: Loss) -> None:
    for parameter, value in _own(loss).named_parameters():
        if value.requires_grad:
            raise LossError(
                f"loss {name}: its parameter {parameter} would never be trained. Trained "
                "parameters belong in the network; one that is fixed needs requires_grad_(False)"
            )


def _check_on_sample_batches(name: str, used: Loss, fresh: Loss, classes: int) -> None:
    """Check a loss on batches without labels, and that it does not depend on earlier batches.

    used, fresh: the same loss, built twice.
    """
    ignored = torch.full((2, 8, 8), 255)
    labels = ignored.clone()
    labels[0] = torch.arange(64).reshape(8, 8) % classes
    logits = torch.linspace(-1, 1, 32 * classes).view(2, classes, 4, 4)
    _try(name, used, -2 * logits, labels, "a small batch")
    before = _buffers(used)
    value, gradient = _try(name, used, logits, ignored, "a batch without labels")
    for what, result in (("it", value), ("its gradient", gradient)):
        if not result.isfinite().all():
            raise LossError(f"loss {name}: {what} is {result.sum():g} without labels, expected 0")
    again, _ = _try(name, used, logits, labels, "a small batch")
    for buffer, each in _buffers(used).items():
        if buffer in before and not _same(each, before[buffer]):
            raise LossError(
                f"loss {name}: a batch changed its buffer {buffer}, which would differ between "
                "workers and is not in checkpoints. A loss must depend on its arguments alone; "
                "compute it from the batch"
            )
    first, _ = _try(name, fresh, logits, labels, "a small batch")
    # Products of matrices may round differently at another address in memory.
    if not first.isclose(again, rtol=1e-5, equal_nan=True):
        raise LossError(
            f"loss {name}: it was {first:g} for a batch, and {again:g} for the same one after "
            "others. It must depend on its arguments alone, and draw from the global generators "
            "of torch, NumPy or Python"
        )


def _own(loss: Loss) -> nn.Module:
    """Return the module as the user wrote it."""
    return loss.module if isinstance(loss, ByWorker) else loss


def _buffers(loss: Loss) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in _own(loss).named_buffers()}


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal; NaN equals NaN."""
    one, other = one.to_dense(), other.to_dense()  # a buffer may be sparse
    if one.shape != other.shape:
        return False
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def _try(
    name: str, loss: Loss, logits: Tensor, labels: Tensor, batch: str
) -> tuple[Tensor, Tensor]:
    """Return the loss, a scalar, and its gradient with respect to the logits.

    Raises:
        LossError: it cannot be computed, or has another shape.
    """
    logits = logits.clone().requires_grad_()
    with (
        failures_as(LossError, f"loss {name}: it failed on {batch}"),
        seeded_generators(0, _CPU),
    ):
        statistics = loss.statistics(logits, labels)
        value = loss.value(statistics)
    if statistics.ndim != 1 or value.ndim != 0:
        raise LossError(
            f"loss {name}: statistics must have one dimension and value none, received "
            f"{tuple(statistics.shape)} and {tuple(value.shape)}"
        )
    if not value.requires_grad:  # as of a loss that returns 0 without labels
        return value, torch.zeros_like(logits)
    with failures_as(LossError, f"loss {name}: its gradient failed on {batch}"):
        (gradient,) = torch.autograd.grad(value, logits, materialize_grads=True)
    return value.detach(), gradient


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
