"""Backbones, each registered by name. A new one is a class and an import here."""

from models.backbones import dfnet, resnet
from models.backbones.contract import (
    BACKBONES,
    Backbone,
    Layout,
    backbone_class,
    build_backbone,
    register_backbone,
)

__all__ = [
    "BACKBONES",
    "Backbone",
    "Layout",
    "backbone_class",
    "build_backbone",
    "dfnet",
    "register_backbone",
    "resnet",
]
