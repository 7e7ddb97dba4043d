"""DFNet1 and DFNet2 (Li et al., "Partial Order Pruning", CVPR 2019)."""

from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from models.backbones.contract import Backbone, WeightLayout, register_backbone
from models.layers import BasicBlock, ConvNormReLU


class Group(NamedTuple):
    """The module `name`: `blocks` basic blocks of `channels`, the first one with `stride`."""

    name: str
    channels: int
    blocks: int
    stride: int


class DFNet(Backbone):
    """Two 3x3 convolutions of stride 2 with `stem_channels`, then groups of basic blocks.

    The FENet paper does not say which DFNet features form the four stages. This class uses the last
    features of stride 4, 8, 16 and 32: the input of each group that halves the size, and the
    network's output. The first of these is the output of the stem, without any block. DFNets have a
    single stem and, as in the paper, no dilation. Groups are named as in the published weights.
    """

    lateral_channels = 64
    layouts: ClassVar[tuple[WeightLayout, ...]] = (
        WeightLayout(
            "SFNet",
            ("stage1.0.weight",),
            {
                r"^stage1\.0\.": "stem.0.conv.",
                r"^stage1\.1\.": "stem.0.norm.",
                r"^stage1\.3\.": "stem.1.conv.",
                r"^stage1\.4\.": "stem.1.norm.",
            },
        ),
    )
    stem_channels: ClassVar[tuple[int, int]] = (32, 64)
    groups: ClassVar[tuple[Group, ...]]

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        first, second = self.stem_channels
        self.stem = nn.Sequential(
            ConvNormReLU(in_channels, first, 3, stride=2), ConvNormReLU(first, second, 3, stride=2)
        )
        in_channels = second
        for group in self.groups:
            blocks = []
            for position in range(group.blocks):
                stride = group.stride if position == 0 else 1
                blocks.append(BasicBlock(in_channels, group.channels, stride))
                in_channels = group.channels
            self.add_module(group.name, nn.Sequential(*blocks))

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.stem(images)
        levels = []
        for group in self.groups:
            if group.stride == 2:
                levels.append(features)
            features = getattr(self, group.name)(features)
        return [*levels, features]


@register_backbone("dfnet1")
class DFNet1(DFNet):
    """Ten blocks."""

    channels = (64, 64, 128, 512)
    groups = (
        Group("stage2", 64, 3, stride=2),
        Group("stage3", 128, 3, stride=2),
        Group("stage4", 256, 3, stride=2),
        Group("stage5", 512, 1, stride=1),
    )


@register_backbone("dfnet1-half")
class DFNet1Half(DFNet):
    """DFNet1 with half of its channels, for studies on a CPU. It has no published weights."""

    channels = (32, 32, 64, 256)
    lateral_channels = 32
    layouts = ()
    stem_channels = (16, 32)
    groups = (
        Group("stage2", 32, 3, stride=2),
        Group("stage3", 64, 3, stride=2),
        Group("stage4", 128, 3, stride=2),
        Group("stage5", 256, 1, stride=1),
    )


@register_backbone("dfnet2")
class DFNet2(DFNet):
    """Twenty blocks."""

    channels = (64, 128, 256, 512)
    groups = (
        Group("stage2_1", 64, 2, stride=2),
        Group("stage2_2", 128, 1, stride=1),
        Group("stage3_1", 128, 10, stride=2),
        Group("stage3_2", 256, 1, stride=1),
        Group("stage4_1", 256, 4, stride=2),
        Group("stage4_2", 512, 2, stride=1),
    )
