"""Batches that are augmented ahead."""

from __future__ import annotations

import torch

from pipelines.data.augmentation import Augmentation
from pipelines.data.config import DataConfig
from pipelines.data.dataset import PreparedDataset
from pipelines.data.device_batches import prefetch_to_device
from pipelines.data.loading import TrainingBatches


def test_augmenting_ahead_changes_nothing(streets: PreparedDataset) -> None:
    data = DataConfig(crop=(24, 40))
    batches = TrainingBatches(streets.split("train"), data, 0, 4)
    augmentation = Augmentation(data.augmentation, data.crop)
    ahead = prefetch_to_device(batches.epoch(0), augmentation, torch.device("cpu"))
    for found, batch in zip(ahead, batches.epoch(0), strict=True):
        images, labels = augmentation(batch)
        assert torch.equal(found.images, images)
        assert torch.equal(found.labels, labels)
        assert found.identifiers == batch.identifiers
