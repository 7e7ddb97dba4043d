"""The normalization of the images that networks receive, and conversion to another one."""

from collections.abc import Sequence

import torch
from torch import Tensor

#: Statistics of the ImageNet training images in [0, 1]. All networks receive images normalized with
#: these, and most published weights were trained with them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def per_channel(images: Tensor, values: Sequence[float]) -> Tensor:
    """Return one value per channel, (channels, 1, 1), with the dtype and device of `images`.

    The values are written by the device itself. A copy from the host would wait for all work queued
    on a GPU.
    """
    return torch.stack([images.new_full((1, 1), value) for value in values])


def renormalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Convert images `(N, 3, H, W)` from ImageNet's normalization to `(image - mean) / std`.

    mean, std: of images in [0, 1], one value per channel.
    """
    if (tuple(mean), tuple(std)) == (IMAGENET_MEAN, IMAGENET_STD):
        return images
    scale = [before / after for before, after in zip(IMAGENET_STD, std, strict=True)]
    shift = [
        (before - after) / deviation
        for before, after, deviation in zip(IMAGENET_MEAN, mean, std, strict=True)
    ]
    return images * per_channel(images, scale) + per_channel(images, shift)
