"""Backbones with each kind of block of the built-in ones, but few of them: compiling and exporting
a network take time for every layer."""

from models.backbones.dfnet import DFNet1
from models.backbones.resnet import ResNet18, ResNet50


class ShallowResNet18(ResNet18):
    depths = (2, 1, 1, 1)


class ShallowResNet50(ResNet50):
    depths = (2, 1, 1, 1)


class ShallowDFNet1(DFNet1):
    groups = (
        DFNet1.groups[0]._replace(blocks=2),
        *(group._replace(blocks=1) for group in DFNet1.groups[1:]),
    )
