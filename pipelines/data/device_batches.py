"""Copying and augmenting the next batch on the device while the current one trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.data.augmentation import Augmentation
from pipelines.data.batches import SourceBatch


@dataclass(frozen=True)
class TrainingBatch:
    """What a training step takes: images float32 (batch, 3, height, width), normalised; labels
    int64 (batch, height, width); sample_keys int64 (batch,), all on the device."""

    images: Tensor
    labels: Tensor
    sample_keys: Tensor
    identifiers: tuple[str, ...]


def prefetch_to_device(
    batches: Iterable[SourceBatch], augmentation: Augmentation, device: torch.device
) -> Iterator[TrainingBatch]:
    """Batches on `device`, augmented; on a GPU one ahead, on a stream of its own.

    Give it pinned batches, so that the copy does not hold up the host. The results are the same as
    without running ahead.
    """
    if device.type != "cuda":
        for batch in batches:
            yield _augmented(batch.to(device), augmentation)
        return
    stream = torch.cuda.Stream(device)
    following: TrainingBatch | None = None
    for batch in batches:
        current = following
        with torch.cuda.stream(stream):
            following = _augmented(batch.to(device, non_blocking=True), augmentation)
        if current is not None:
            yield current
        # Only now may the training stream use what was made meanwhile.
        _hand_over(following, stream)
    if following is not None:
        yield following


def _augmented(batch: SourceBatch, augmentation: Augmentation) -> TrainingBatch:
    images, labels = augmentation(batch)
    return TrainingBatch(images, labels, batch.sample_keys, batch.identifiers)


def _hand_over(batch: TrainingBatch, stream: torch.cuda.Stream) -> None:
    training = torch.cuda.current_stream(stream.device)
    training.wait_stream(stream)
    for tensor in (batch.images, batch.labels, batch.sample_keys):
        # The allocator must not give the memory away before the training stream is done with it.
        tensor.record_stream(training)
