"""Layers and level operations shared by all parts of the network."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.resampling import resize


class Conv2d(nn.Conv2d):
    """A convolution with He's normal initialization over the fan-out."""

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Classifier(Conv2d):
    """The 1x1 convolution to class logits, initialized close to zero to favor no class."""

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__(in_channels, classes, kernel_size=1)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.01)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm that also trains on a single value per channel.

    A single value has no variance, so `nn.BatchNorm2d` raises an error; this happens when a batch
    of one image is pooled to 1x1. Such a batch is normalized by the running statistics, as in
    evaluation, and does not update them; weight and bias are trained as usual. Synchronized batch
    norm layers, which replace this one when there are several workers, do not need the special
    case.
    """

    def forward(self, input: Tensor) -> Tensor:
        single_value = input.shape[0] * input.shape[2] * input.shape[3] == 1
        if self.training and single_value:
            return F.batch_norm(
                input,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                training=False,
                eps=self.eps,
            )
        return super().forward(input)


class ConvNormReLU(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv = Conv2d(
            in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False
        )
        self.norm = BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        return self.relu(self.norm(self.conv(features)))


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1) -> Conv2d:
    """Return a 3x3 convolution without bias; its output size is `ceil(input / stride)`."""
    return Conv2d(
        in_channels, out_channels, 3, stride, padding=dilation, dilation=dilation, bias=False
    )


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """Return the projection shortcut of a residual block, or None if the identity fits."""
    if stride == 1 and in_channels == out_channels:
        return None
    conv = Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)
    return nn.Sequential(conv, BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., CVPR 2016); names as in torchvision."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride, dilation)
        self.bn1 = BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels, dilation=dilation)
        self.bn2 = BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(in_channels, channels, stride)

    def forward(self, features: Tensor) -> Tensor:
        identity = features if self.downsample is None else self.downsample(features)
        out = self.relu(self.bn1(self.conv1(features)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + identity)


def fuse_by_addition(levels: list[Tensor]) -> Tensor:
    """Return the sum of all levels at the size of the first, `(N, C, H, W)`."""
    fused = levels[0]
    for level in levels[1:]:
        fused = fused + resize(level, levels[0])
    return fused


def fuse_by_concatenation(levels: list[Tensor]) -> Tensor:
    """Concatenate all levels at the size of the first: `(N, len(levels) * C, H, W)`."""
    return torch.cat([resize(level, levels[0]) for level in levels], dim=1)
