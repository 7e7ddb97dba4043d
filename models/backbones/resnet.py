"""ResNet-18, -50 and -101 (He et al., CVPR 2016) with a choice of stems and dilation."""

from typing import ClassVar

from torch import Tensor, nn

from models.backbones.contract import Backbone, WeightLayout, register_backbone
from models.layers import BasicBlock, BatchNorm2d, Conv2d, ConvNormReLU, conv3x3, shortcut

#: Output channels of each stem's convolutions: 3x3 in the deep stems, 7x7 in the plain one.
STEMS: dict[str, tuple[int, ...]] = {
    "64-64-128": (64, 64, 128),
    "32-32-64": (32, 32, 64),
    "plain": (64,),
}

# Keys of published weights for the stem, and for the shortcut if it follows an average pooling.
_PLAIN = {r"^conv1\.": "stem.0.conv.", r"^bn1\.": "stem.0.norm."}
_NUMBERED = {
    rf"^{kind}{i + 1}\.": f"stem.{i}.{module}."
    for i in range(3)
    for kind, module in (("conv", "conv"), ("bn", "norm"))
}
_SEQUENTIAL = {
    r"^conv1\.0\.": "stem.0.conv.",
    r"^conv1\.1\.": "stem.0.norm.",
    r"^conv1\.3\.": "stem.1.conv.",
    r"^conv1\.4\.": "stem.1.norm.",
    r"^conv1\.6\.": "stem.2.conv.",
    r"^bn1\.": "stem.2.norm.",
}
_STEM = {
    rf"^stem\.{3 * i + offset}\.": f"stem.{i}.{module}."
    for i in range(3)
    for offset, module in ((0, "conv"), (1, "norm"))
}
_POOLED = {r"\.downsample\.1\.": ".downsample.0.", r"\.downsample\.2\.": ".downsample.1."}
_POOLED_KEY = "layer2.0.downsample.2.weight"
_POOLED_NOTE = (
    "these weights were trained with an average pooling before each shortcut's 1x1 convolution; "
    "this network uses a strided convolution instead"
)


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided) and 1x1 convolutions and a shortcut; names as in torchvision."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = Conv2d(in_channels, channels, kernel_size=1, bias=False)
        self.bn1 = BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels, stride, dilation)
        self.bn2 = BatchNorm2d(channels)
        self.conv3 = Conv2d(channels, out_channels, kernel_size=1, bias=False)
        self.bn3 = BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(in_channels, out_channels, stride)

    def forward(self, features: Tensor) -> Tensor:
        identity = features if self.downsample is None else self.downsample(features)
        out = self.relu(self.bn1(self.conv1(features)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + identity)


class ResNet(Backbone):
    """A ResNet with four levels of stride 4, 8, 16 and 32.

    Args:
        stem: the layers before the max-pool: "64-64-128", three 3x3 convolutions as in public code
            of related papers; "32-32-64", the same with the width of ResNet-C and -D; "plain", the
            original 7x7. The parameter counts of the paper's Table 2 require "64-64-128".
        dilation: dilate the 3x3 convolutions of the last two stages by 2 and 4 **and keep their
            strides** (section 4.2): the receptive field grows, sizes and cost stay the same.
        in_channels: channels of the images.

    Parameters of the body are named as in torchvision, those of the stem `stem.I.conv` and
    `stem.I.norm`.
    """

    stems = tuple(STEMS)
    can_dilate = True
    layouts = (
        WeightLayout(
            "timm resnet*d", ("conv1.0.weight", _POOLED_KEY), _SEQUENTIAL | _POOLED, _POOLED_NOTE
        ),
        WeightLayout("deep stem in one sequence (SFNet, timm)", ("conv1.0.weight",), _SEQUENTIAL),
        WeightLayout(
            "mmsegmentation v1d", ("stem.0.weight", _POOLED_KEY), _STEM | _POOLED, _POOLED_NOTE
        ),
        WeightLayout("mmsegmentation v1c", ("stem.0.weight",), _STEM),
        WeightLayout("deep stem in numbered layers (MIT CSAIL)", ("conv3.weight",), _NUMBERED),
        WeightLayout("torchvision", ("conv1.weight",), _PLAIN),
    )
    block: ClassVar[type[BasicBlock] | type[Bottleneck]]
    depths: ClassVar[tuple[int, int, int, int]]

    def __init__(self, stem: str, dilation: bool, in_channels: int = 3) -> None:
        super().__init__()
        widths = STEMS[stem]
        kernel_size = 7 if stem == "plain" else 3
        inputs = (in_channels, *widths[:-1])
        self.stem = nn.Sequential(
            *(
                ConvNormReLU(i, o, kernel_size, stride=2 if position == 0 else 1)
                for position, (i, o) in enumerate(zip(inputs, widths, strict=True))
            )
        )
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        dilations = (1, 1, 2, 4) if dilation else (1, 1, 1, 1)
        in_channels = widths[-1]
        for index in range(4):
            channels = 64 * 2**index
            blocks = []
            for position in range(self.depths[index]):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(self.block(in_channels, channels, stride, dilations[index]))
                in_channels = channels * self.block.expansion
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.maxpool(self.stem(images))
        levels = []
        for index in range(4):
            features = self.get_submodule(f"layer{index + 1}")(features)
            levels.append(features)
        return levels


@register_backbone("resnet18")
class ResNet18(ResNet):
    """Two basic blocks per stage."""

    channels = (64, 128, 256, 512)
    lateral_channels = 128
    block = BasicBlock
    depths = (2, 2, 2, 2)


@register_backbone("resnet50")
class ResNet50(ResNet):
    """3, 4, 6 and 3 bottlenecks."""

    channels = (256, 512, 1024, 2048)
    lateral_channels = 256
    block = Bottleneck
    depths = (3, 4, 6, 3)


@register_backbone("resnet101")
class ResNet101(ResNet):
    """3, 4, 23 and 3 bottlenecks."""

    channels = (256, 512, 1024, 2048)
    lateral_channels = 256
    block = Bottleneck
    depths = (3, 4, 23, 3)
