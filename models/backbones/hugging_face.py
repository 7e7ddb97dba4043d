"""Backbones of `transformers` (`AutoBackbone`), such as ConvNeXt, Swin, ResNet and DINOv2."""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import Tensor, nn

from models.backbones.library import MAX_LEVELS, LibraryBackbone, Traits
from models.hugging_face.build import build_model, freeze, probe, unreached
from models.hugging_face.configuration import (
    check_channels,
    model_config,
    normalization,
    resolve,
    set_channels,
)


def backbone_traits(name: str, arguments: Mapping[str, Any]) -> Traits:
    """Return the traits of the backbone `name` (`hf:TYPE`).

    Raises:
        ValueError: there is no such backbone, or an argument is not valid.
    """
    return _traits(name, json.dumps(arguments, sort_keys=True, default=list))


@cache
def _traits(name: str, text: str) -> Traits:
    arguments = json.loads(text)
    normalization(arguments)
    config = model_config("backbone", name, arguments)
    set_channels(name, config, 3)  # whatever the images have, the levels are the same
    if not getattr(config, "stage_names", None):
        raise ValueError(f"{name}: its configuration names no stages; choose another backbone")
    if not any(key in arguments for key in ("out_features", "out_indices")):
        config.out_features = list(config.stage_names)
        _, _, strides = _probe(name, config)
        # The last stage of each stride: a stem has that of the first stage, or one of its own.
        last = dict(zip(strides, config.stage_names, strict=True))
        config.out_features = [*last.values()][-MAX_LEVELS:]
    model, levels, strides = _probe(name, config)
    channels = [level.shape[1] for level in levels]
    return Traits.of_features(
        name, channels, strides, config.out_features, unreached(model, levels)
    )


def _probe(name: str, config: Any) -> tuple[nn.Module, list[Tensor], list[float]]:
    """Return a model on the meta device, its levels, and their strides."""
    model, images, levels = probe(
        "backbone", name, config, lambda model, images: list(model(images).feature_maps)
    )
    return model, levels, [images.shape[-1] / level.shape[-1] for level in levels]


class HuggingFaceBackbone(LibraryBackbone):
    """A backbone of `AutoBackbone`.

    Args:
        name: `hf:TYPE`, such as `hf:convnext`.
        arguments: entries of the model's configuration, and `image_mean` and `image_std` of the
            normalization it expects.
        in_channels: channels of the images.

    Raises:
        ValueError: there is no such backbone, or an argument is not valid.
    """

    def __init__(self, name: str, arguments: Mapping[str, Any], in_channels: int = 3) -> None:
        traits = backbone_traits(name, arguments)
        config = model_config("backbone", name, arguments)
        config.out_features = list(traits.stages)
        check_channels(name, arguments, in_channels)
        set_channels(name, config, in_channels)
        super().__init__(build_model("backbone", config), traits, *normalization(arguments))
        freeze(self.model, traits.unused)

    @staticmethod
    def traits(name: str, arguments: Mapping[str, Any]) -> Traits:
        return backbone_traits(*resolve(name, arguments))

    def features(self, images: Tensor) -> list[Tensor]:
        return list(self.model(images).feature_maps)
