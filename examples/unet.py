"""A custom network: a small U-Net (Ronneberger et al., MICCAI 2015).

It does not import this project; it only needs to take `classes` and to map images to logits.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def double_convolution(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Maps images `(N, 3, H, W)` to logits `(N, classes, H, W)`, halving the size `depth` times."""

    def __init__(self, classes: int, width: int = 16, depth: int = 4) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            double_convolution(a, b) for a, b in zip([3, *widths[:-1]], widths, strict=True)
        )
        self.up = nn.ModuleList(
            double_convolution(a + b, a) for a, b in zip(widths[-2::-1], widths[:0:-1], strict=True)
        )
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        levels = [self.down[0](images)]
        for block in self.down[1:]:
            levels.append(block(F.max_pool2d(levels[-1], 2)))
        features = levels.pop()
        for block in self.up:
            finer = levels.pop()
            size = (finer.shape[-2], finer.shape[-1])
            resized = F.interpolate(features, size=size, mode="bilinear", align_corners=False)
            features = block(torch.cat([finer, resized], dim=1))
        return self.classifier(features)
