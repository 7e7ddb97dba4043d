"""Normalization of images for a network."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Statistics of the ImageNet training images in [0, 1], as used for the pretrained backbones.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize(
    images: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> Tensor:
    """Return `(images - mean) / std` per channel, float32.

    `images`: (batch, 3, height, width), uint8 in 0 to 255 or floating point in [0, 1].
    """
    scaled = images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images.float()
    return (scaled - per_channel(scaled, mean)) / per_channel(scaled, std)


def per_channel(images: Tensor, values: Sequence[float]) -> Tensor:
    """Return one value per channel, (channels, 1, 1), with the dtype and device of `images`.

    The values are written by the device itself. A copy from the host would wait for all work queued
    on a GPU.
    """
    return torch.stack([images.new_full((1, 1), value) for value in values])
