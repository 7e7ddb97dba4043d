"""Scaling and normalization of images for a network."""

import torch
from torch import Tensor

from models.normalization import per_channel
from pipelines.data.image_format import RGB, ImageFormat


def to_unit(pixels: Tensor, image_format: ImageFormat) -> Tensor:
    """Return stored values, uint8 or uint16, as float32 in [0, 1]."""
    values = pixels.to(torch.float32)
    low, high = image_format.scale
    if (low, high) == (0, 255) and image_format.bits == 8:
        return values / 255
    return ((values - low) / (high - low)).clamp(0, 1)


def normalize(images: Tensor, image_format: ImageFormat = RGB) -> Tensor:
    """Return `(images - mean) / std` per channel, float32.

    `images`: (batch, channels, height, width), the stored uint8 or uint16, or floating point in
    [0, 1].
    """
    is_stored = images.dtype in (torch.uint8, torch.uint16)
    unit = to_unit(images, image_format) if is_stored else images.float()
    return (unit - per_channel(unit, image_format.mean)) / per_channel(unit, image_format.std)
