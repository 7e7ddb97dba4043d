"""Pyramid pooling (Zhao et al., CVPR 2017) on the coarsest level."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import ConvNormReLU, resize


class PyramidPooling(nn.Module):
    """`(N, in, H, W)` to `(N, C, H, W)` with context from the whole image.

    For each bin size b the input is averaged over a b x b grid and projected to C channels; these,
    upsampled, and the input itself are concatenated and projected by a 1x1 convolution
    `(in + bins * C) -> C`. The 1x1 (not 3x3) is forced by Table 2: 46.6 M for the strong baseline.

    Trains on a batch of one image too: see `models.layers.BatchNorm2d`.
    """

    bins = (1, 2, 3, 6)

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(ConvNormReLU(in_channels, channels, 1) for _ in self.bins)
        self.output = ConvNormReLU(in_channels + len(self.bins) * channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        # A 1x1 map looks the same in either memory format and would come back in the other one.
        channels_last = features.is_contiguous(memory_format=torch.channels_last)
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        pyramid = [features]
        for size, project in zip(self.bins, self.projections, strict=True):
            pooled = resize(project(F.adaptive_avg_pool2d(features, size)), features)
            pyramid.append(pooled.contiguous(memory_format=memory_format))
        return self.output(torch.cat(pyramid, dim=1))
