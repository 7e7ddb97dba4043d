"""Normalization of images for a network."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.normalization import IMAGENET_MEAN, IMAGENET_STD, per_channel


def normalize(
    images: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> Tensor:
    """Return `(images - mean) / std` per channel, float32.

    `images`: (batch, 3, height, width), uint8 in 0 to 255 or floating point in [0, 1].
    """
    scaled = images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images.float()
    return (scaled - per_channel(scaled, mean)) / per_channel(scaled, std)
