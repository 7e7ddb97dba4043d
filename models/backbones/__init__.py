"""Backbones, registered by name. To add one, write its class and import its module here."""

from models.backbones import dfnet, efficientnet, hugging_face, resnet
from models.backbones.contract import (
    BACKBONES,
    Backbone,
    WeightLayout,
    backbone_class,
    build_backbone,
    register_backbone,
)

__all__ = [
    "BACKBONES",
    "Backbone",
    "WeightLayout",
    "backbone_class",
    "build_backbone",
    "dfnet",
    "efficientnet",
    "hugging_face",
    "register_backbone",
    "resnet",
]
