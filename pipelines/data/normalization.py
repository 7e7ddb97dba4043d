"""From pixel values to what a network is given."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Of the ImageNet training images, in [0, 1]; what the pretrained backbones were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize(
    images: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> Tensor:
    """(images - mean) / std per channel as float32; uint8 is taken as 0-255, float as [0, 1].

    `images`: (batch, 3, height, width).
    """
    scaled = images.to(torch.float32) / 255 if images.dtype == torch.uint8 else images.float()
    return (scaled - channels(scaled, mean)) / channels(scaled, std)


def channels(images: Tensor, values: Sequence[float]) -> Tensor:
    """A value for each channel, `(channels, 1, 1)`, as `images` are typed and placed."""
    return torch.tensor(tuple(values), dtype=images.dtype, device=images.device)[:, None, None]
