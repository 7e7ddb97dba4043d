"""Pyramid pooling (Zhao et al., CVPR 2017) on the coarsest level."""

import torch
from torch import Tensor, nn

from models.layers import ConvNormReLU
from models.resampling import average_pool, resize


class PyramidPooling(nn.Module):
    """Maps `(N, in, H, W)` to `(N, C, H, W)` with context from the whole image.

    For each bin size b, the input is averaged over a b x b grid, projected to C channels and
    upsampled. The results and the input are concatenated and projected by a convolution
    `(in + bins * C) -> C`, which is 1x1 (not 3x3) as implied by the 46.6 M parameters of the strong
    baseline in Table 2.

    Training also works with a batch of one image; see `models.layers.BatchNorm2d`.
    """

    bins = (1, 2, 3, 6)

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(ConvNormReLU(in_channels, channels, 1) for _ in self.bins)
        self.output = ConvNormReLU(in_channels + len(self.bins) * channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        # A 1x1 map fits both memory formats, so `resize` may return the other one.
        channels_last = features.is_contiguous(memory_format=torch.channels_last)
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        pyramid = [features]
        for size, project in zip(self.bins, self.projections, strict=True):
            pooled = resize(project(average_pool(features, size)), features)
            pyramid.append(pooled.contiguous(memory_format=memory_format))
        return self.output(torch.cat(pyramid, dim=1))
