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
        pooled = [
            resize(project(F.adaptive_avg_pool2d(features, size)), features)
            for size, project in zip(self.bins, self.projections, strict=True)
        ]
        return self.output(torch.cat([features, *pooled], dim=1))
