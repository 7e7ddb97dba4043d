"""Copies and augments the next batch on the device during the current training step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.data.augmentation import Augmentation
from pipelines.data.batches import SourceBatch


@dataclass(frozen=True)
class TrainingBatch:
    """The input of a training step, on the device.

    images: float32 (batch, channels, height, width), normalized. labels: int64 (batch, height,
    width). sample_keys: int64 (batch,).
    """

    images: Tensor
    labels: Tensor
    sample_keys: Tensor
    identifiers: tuple[str, ...]


def prefetch_to_device(
    batches: Iterable[SourceBatch], augmentation: Augmentation, device: torch.device
) -> Iterator[TrainingBatch]:
    """Yield augmented batches on `device`; on a GPU, prefetch one batch on a separate stream.

    The batches should be pinned, so that copying does not block the host. Prefetching does not
    change the results.
    """
    if device.type != "cuda":
        for batch in batches:
            yield _augment(batch.to(device, non_blocking=True), augmentation)
        return
    stream = torch.cuda.Stream(device)
    upcoming: TrainingBatch | None = None
    for batch in batches:
        current = upcoming
        with torch.cuda.stream(stream):
            upcoming = _augment(batch.to(device, non_blocking=True), augmentation)
        if current is not None:
            yield current
        # The training stream must wait here, after the step on `current`, not before it.
        _hand_over(upcoming, stream)
    if upcoming is not None:
        yield upcoming


def _augment(batch: SourceBatch, augmentation: Augmentation) -> TrainingBatch:
    images, labels = augmentation(batch)
    return TrainingBatch(images, labels, batch.sample_keys, batch.identifiers)


def _hand_over(batch: TrainingBatch, stream: torch.cuda.Stream) -> None:
    """Make the training stream wait for `stream`, and own the batch's memory."""
    training_stream = torch.cuda.current_stream(stream.device)
    training_stream.wait_stream(stream)
    for tensor in (batch.images, batch.labels, batch.sample_keys):
        # The allocator must not reuse the memory before the training stream has finished with it.
        tensor.record_stream(training_stream)
