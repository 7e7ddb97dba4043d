"""EfficientNet-Lite0 (Tan and Le, ICML 2019; the Lite variants are Google's, 2020)."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.contract import Backbone, WeightLayout, register_backbone
from models.layers import BatchNorm2d, Conv2d


class Stage(NamedTuple):
    """`blocks` inverted residual blocks of `channels`, the first one with `stride`.

    expansion: the depthwise convolution's channels as a multiple of the block's input channels.
    """

    blocks: int
    kernel_size: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class DepthwiseConv2d(Conv2d):
    """A depthwise convolution without bias or padding, with He's normal initialization."""

    def __init__(self, channels: int, kernel_size: int, stride: int, padding: int) -> None:
        super().__init__(
            channels, channels, kernel_size, stride, padding, groups=channels, bias=False
        )

    def reset_parameters(self) -> None:
        # The fan-out of one channel is its fan-in, k^2; torch's fan-out counts all channels.
        nn.init.kaiming_normal_(self.weight, mode="fan_in", nonlinearity="relu")


class ConvNorm(nn.Module):
    """Convolution, batch norm and, if `relu`, ReLU6.

    Padding is TensorFlow's "SAME", for which the published weights were trained: the output size is
    `ceil(input / stride)`, and a convolution of stride 2 pads an even height or width by one pixel
    less at the top or left than at the bottom or right.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        depthwise: bool = False,
        relu: bool = True,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2 if stride == 1 else 0  # `forward` pads for stride 2
        self.conv: Conv2d
        if depthwise:
            self.conv = DepthwiseConv2d(out_channels, kernel_size, stride, padding)
        else:
            self.conv = Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False)
        self.norm = BatchNorm2d(out_channels, eps=1e-3)
        self.relu = nn.ReLU6(inplace=True) if relu else nn.Identity()
        self.pads = stride == 2

    def forward(self, features: Tensor) -> Tensor:
        if self.pads:
            features = _pad_for_stride_2(features, self.conv.kernel_size[0])
        return self.relu(self.norm(self.conv(features)))


def _pad_for_stride_2(features: Tensor, kernel_size: int) -> Tensor:
    height, width = features.shape[2:]
    after = kernel_size // 2
    top, left = (after if size % 2 else after - 1 for size in (height, width))
    return F.pad(features, (left, after, top, after))


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection without ReLU6, and an identity shortcut
    if the shape does not change. Expansion by 1 has no convolution."""

    def __init__(
        self, in_channels: int, channels: int, kernel_size: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        self.expand = ConvNorm(in_channels, width) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(width, width, kernel_size, stride, depthwise=True)
        self.project = ConvNorm(width, channels, relu=False)
        self.stride = stride
        self.has_shortcut = stride == 1 and in_channels == channels

    def forward(self, features: Tensor) -> Tensor:
        out = self.project(self.depthwise(self.expand(features)))
        return out + features if self.has_shortcut else out


@register_backbone("efficientnet-lite0")
class EfficientNetLite0(Backbone):
    """EfficientNet-B0 without squeeze-and-excitation and with ReLU6, up to its last block.

    The levels are the last features of stride 4, 8, 16 and 32. The head of the classifier (a 1x1
    convolution to 1280 channels) is left out: of the published 4.65 M parameters, 2.96 M remain.

    In evaluation, the outputs are those of the published implementation in TensorFlow, and of its
    conversion to PyTorch, `efficientnet-lite-pytorch`. Training differs from it in two ways: blocks
    are not dropped at random, and running statistics are updated with torch's default momentum, as
    in the rest of the network, instead of 0.01, which suits longer training.
    """

    channels = (24, 40, 112, 320)
    lateral_channels = 64
    mean = (127 / 255,) * 3
    std = (128 / 255,) * 3
    layouts = (
        WeightLayout(
            "efficientnet-lite-pytorch",
            ("_conv_stem.weight",),
            {
                r"^_conv_stem\.": "stem.conv.",
                r"^_bn0\.": "stem.norm.",
                r"^_blocks\.(\d+)\._expand_conv\.": r"blocks.\1.expand.conv.",
                r"^_blocks\.(\d+)\._bn0\.": r"blocks.\1.expand.norm.",
                r"^_blocks\.(\d+)\._depthwise_conv\.": r"blocks.\1.depthwise.conv.",
                r"^_blocks\.(\d+)\._bn1\.": r"blocks.\1.depthwise.norm.",
                r"^_blocks\.(\d+)\._project_conv\.": r"blocks.\1.project.conv.",
                r"^_blocks\.(\d+)\._bn2\.": r"blocks.\1.project.norm.",
            },
        ),
    )

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.stem = ConvNorm(in_channels, 32, kernel_size=3, stride=2)
        in_channels = 32
        self.blocks = nn.ModuleList()
        for stage in STAGES:
            for position in range(stage.blocks):
                stride = stage.stride if position == 0 else 1
                self.blocks.append(
                    InvertedResidual(
                        in_channels, stage.channels, stage.kernel_size, stride, stage.expansion
                    )
                )
                in_channels = stage.channels

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.stem(images)
        levels = []
        for block in self.blocks:
            if block.stride == 2:
                levels.append(features)
            features = block(features)
        return [*levels[1:], features]  # the first one has stride 2
