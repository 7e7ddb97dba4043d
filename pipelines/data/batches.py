"""The batches that loaders produce: source windows for training, whole images for evaluation."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class SourceBatch:
    """The part of each image that its crop needs, and the geometry of the crop.

    windows: uint8 or uint16 (batch, channels, height, width), stored channels last.
    labels: uint8 (batch, height, width). The size of windows and labels is the same for all batches
        of a data set. A sample's own window is followed by a copy of its last row and column;
        values beyond are undefined and never sampled.
    geometry: int64 (batch, 2, 4), `Axis.numbers` of the rows and the columns.
    flips: bool (batch,).
    sample_keys: int64 (batch,), keys of all random numbers of a sample.
    draws: float32 (batch, streams), random numbers in [0, 1) of each sample, see `randomness`.
    host_keys: `sample_keys` as Python integers, which stay on the host.
    identifiers: names of the samples.
    partners: the samples that these are mixed with, in the same order; None without mixing.
    class_draws: float32 (batch, classes), random numbers in [0, 1) that order the classes for
        `classmix`; None without it.
    """

    windows: Tensor
    labels: Tensor
    geometry: Tensor
    flips: Tensor
    sample_keys: Tensor
    draws: Tensor
    host_keys: tuple[int, ...]
    identifiers: tuple[str, ...]
    partners: SourceBatch | None = None
    class_draws: Tensor | None = None

    def __len__(self) -> int:
        return len(self.identifiers)

    def __getitem__(self, rows: slice) -> SourceBatch:
        """Return a slice of the samples as views, without copying."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        sliced: dict[str, Any] = {
            name: None if value is None else value[rows] for name, value in values.items()
        }
        return SourceBatch(**sliced)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SourceBatch:
        """Return the batch on `device`; `non_blocking` copies overlap if the batch is pinned."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=non_blocking)
            for name, value in values.items()
            if isinstance(value, Tensor | SourceBatch)
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class EvaluationBatch:
    """Whole images of one size.

    images: uint8 or uint16 (batch, channels, height, width). labels: uint8 (batch, height, width).
    indices: int64 (batch,), positions in the split. identifiers: names of the samples.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    identifiers: tuple[str, ...]
