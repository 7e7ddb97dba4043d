"""Batches augmented ahead of the training loop."""

from __future__ import annotations

import torch

from pipelines.data.augmentation import Augmentation
from pipelines.data.config import DataConfig
from pipelines.data.dataset import PreparedDataset
from pipelines.data.device_batches import prefetch_to_device
from pipelines.data.loading import TrainingBatches


def test_prefetched_augmentation_equals_direct_augmentation(streets: PreparedDataset) -> None:
    data = DataConfig(crop=(24, 40))
    batches = TrainingBatches(streets.split("train"), data, 0, 4)
    augmentation = Augmentation(data.augmentation, data.crop)
    prefetched = prefetch_to_device(batches.epoch(0), augmentation, torch.device("cpu"))
    for device_batch, batch in zip(prefetched, batches.epoch(0), strict=True):
        images, labels = augmentation(batch)
        assert torch.equal(device_batch.images, images)
        assert torch.equal(device_batch.labels, labels)
        assert device_batch.identifiers == batch.identifiers
