"""What the loaders hand over: source windows to train on, whole pictures to evaluate on."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class SourceBatch:
    """The part of each picture that its crop needs, and how to cut the crop from it.

    windows: uint8 (batch, 3, height, width), stored channels last; labels: uint8 (batch, height,
    width). Both have one size for all batches of a data set and are undefined beyond a sample's own
    window, which `geometry` never reaches.
    geometry: int64 (batch, 2, 4), per axis (rows, columns) the numbers of `geometry.Axis`.
    flips: bool (batch,). sample_keys: int64 (batch,), from which all of a sample's random numbers
    follow. identifiers: names of the samples.
    """

    windows: Tensor
    labels: Tensor
    geometry: Tensor
    flips: Tensor
    sample_keys: Tensor
    identifiers: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.identifiers)

    def __getitem__(self, rows: slice) -> SourceBatch:
        """Some of the samples; views, nothing is copied."""
        chosen = {field.name: getattr(self, field.name)[rows] for field in fields(self)}
        return SourceBatch(**chosen)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SourceBatch:
        """The batch on `device`; `non_blocking` copies overlap where the batch is pinned."""
        moved: dict[str, Any] = {
            field.name: getattr(self, field.name).to(device, non_blocking=non_blocking)
            for field in fields(self)
            if field.name != "identifiers"
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class EvaluationBatch:
    """Whole pictures of one size: images uint8 (batch, 3, height, width), labels uint8 (batch,
    height, width), indices int64 (batch,) into the split, and the samples' names."""

    images: Tensor
    labels: Tensor
    indices: Tensor
    identifiers: tuple[str, ...]
