"""The normalization of the images that networks receive, and conversion to another one."""

from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor

from models.imagenet import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "per_channel", "renormalize"]


def per_channel(images: Tensor, values: Sequence[float]) -> Tensor:
    """Return one value per channel, (channels, 1, 1), with the dtype and device of `images`.

    The values are written by the device itself. A copy from the host would wait for all work queued
    on a GPU.
    """
    return torch.stack([images.new_full((1, 1), value) for value in values])


def renormalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Convert images `(N, C, H, W)` from ImageNet's normalization to `(image - mean) / std`.

    Images that were normalized with statistics of their own are converted as if they were ImageNet
    images, because both kinds have mean 0 and standard deviation 1. If there are not three
    channels, each one gets the mean of the three values.

    mean, std: of images in [0, 1], of red, green and blue.
    """
    if (tuple(mean), tuple(std)) == (IMAGENET_MEAN, IMAGENET_STD):
        return images
    channels = images.shape[1]
    old_mean, old_std, new_mean, new_std = (
        values if channels == len(values) else [fmean(values)] * channels
        for values in (IMAGENET_MEAN, IMAGENET_STD, mean, std)
    )
    scale = [before / after for before, after in zip(old_std, new_std, strict=True)]
    shift = [
        (before - after) / deviation
        for before, after, deviation in zip(old_mean, new_mean, new_std, strict=True)
    ]
    return images * per_channel(images, scale) + per_channel(images, shift)
