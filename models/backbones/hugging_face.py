"""Backbones of `transformers` (`AutoBackbone`), such as ConvNeXt, Swin, ResNet and DINOv2."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones.contract import Backbone
from models.hugging_face.build import build_model, freeze, probe, unreached
from models.hugging_face.configuration import (
    check_channels,
    model_config,
    normalization,
    set_channels,
)
from models.layers import BatchNorm2d

# Unless arguments select stages, a backbone returns at most this number of levels.
_MAX_LEVELS = 4

# Strides of the feature pyramid's levels, as multiples of the model's only stride.
_PYRAMID = (0.25, 0.5, 1, 2)


@dataclass(frozen=True)
class Traits:
    """The levels of a backbone of `transformers`, found without weights.

    channels, strides: by level. stages: names of the model's stages that return features.
    has_pyramid: whether the levels are a feature pyramid, because all features have one stride.
    feature_channels: channels by stage.
    unused: names of the model's parameters that no level depends on.
    """

    channels: tuple[int, ...]
    strides: tuple[float, ...]
    stages: tuple[str, ...]
    has_pyramid: bool
    feature_channels: tuple[int, ...]
    unused: frozenset[str]

    # As `BuiltInBackbone` and `Backbone` declare them.
    stems: tuple[str, ...] = ()
    can_dilate: bool = False

    @property
    def lateral_channels(self) -> int:
        """128, or 256 for wide backbones, as for the ResNets."""
        return 128 if max(self.channels) <= 768 else 256


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
        config.out_features = [*last.values()][-_MAX_LEVELS:]
    model, levels, strides = _probe(name, config)
    channels = features = tuple(level.shape[1] for level in levels)
    has_pyramid = len(set(strides)) == 1
    if has_pyramid:
        if len(levels) not in (1, len(_PYRAMID)):
            raise ValueError(
                f"{name}: {len(levels)} stages of stride {strides[0]:g} are selected; select 1, or "
                f"{len(_PYRAMID)}, one by level of the feature pyramid"
            )
        channels = _pyramid_channels(channels)
        strides = [strides[0] * factor for factor in _PYRAMID]
    return Traits(
        channels,
        tuple(int(stride) if stride == int(stride) else stride for stride in strides),
        tuple(config.out_features),
        has_pyramid,
        features,
        unreached(model, levels),
    )


def _probe(name: str, config: Any) -> tuple[nn.Module, list[Tensor], list[float]]:
    """Return a model on the meta device, its levels, and their strides."""
    model, images, levels = probe(
        "backbone", name, config, lambda model, images: list(model(images).feature_maps)
    )
    return model, levels, [images.shape[-1] / level.shape[-1] for level in levels]


def _by_level(channels: tuple[int, ...]) -> tuple[int, ...]:
    """Return the input channels of the pyramid's levels."""
    return channels if len(channels) == len(_PYRAMID) else channels * len(_PYRAMID)


def _pyramid_channels(channels: tuple[int, ...]) -> tuple[int, ...]:
    """Return the channels of the pyramid's levels, from those of one feature or of one by level."""
    widths = _by_level(channels)
    return (widths[0] // 4, widths[1] // 2, *widths[2:])


class FeaturePyramid(nn.Module):
    """The simple feature pyramid of features with one stride (Li et al., ECCV 2022).

    Levels at 1/4, 1/2, 1 and 2 times the stride: two transposed convolutions, one, none, and a
    max-pool. The paper's projection of each level to the same number of channels is left to the
    laterals of the neck, and batch norm replaces its layer norm.

    Args:
        in_channels: of the only feature, or of the feature for each level.
    """

    def __init__(self, in_channels: tuple[int, ...]) -> None:
        super().__init__()
        widths = _by_level(in_channels)
        self.finest = nn.Sequential(
            nn.ConvTranspose2d(widths[0], widths[0] // 2, kernel_size=2, stride=2),
            BatchNorm2d(widths[0] // 2),
            nn.GELU(),
            nn.ConvTranspose2d(widths[0] // 2, widths[0] // 4, kernel_size=2, stride=2),
        )
        self.finer = nn.ConvTranspose2d(widths[1], widths[1] // 2, kernel_size=2, stride=2)
        self.pool = nn.MaxPool2d(kernel_size=2)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        finest, finer, same, coarser = features if len(features) > 1 else features * len(_PYRAMID)
        return [self.finest(finest), self.finer(finer), same, self.pool(coarser)]


class HuggingFaceBackbone(Backbone):
    """A backbone of `AutoBackbone`, with the last stage of each stride as levels.

    Images are padded at the right and the bottom to a multiple of the coarsest stride, with the
    mean color, and the levels are cropped.

    Args:
        name: `hf:TYPE`, such as `hf:convnext`.
        arguments: entries of the model's configuration, and `image_mean` and `image_std` of the
            normalization it expects.
        in_channels: channels of the images.

    Raises:
        ValueError: there is no such backbone, or an argument is not valid.
    """

    def __init__(self, name: str, arguments: Mapping[str, Any], in_channels: int = 3) -> None:
        super().__init__()
        traits = backbone_traits(name, arguments)
        self.channels, self.strides = traits.channels, traits.strides  # type: ignore[misc]
        self.lateral_channels = traits.lateral_channels  # type: ignore[misc]
        mean, std = normalization(arguments)
        self.mean, self.std = mean, std  # type: ignore[misc, assignment]
        config = model_config("backbone", name, arguments)
        config.out_features = list(traits.stages)
        check_channels(name, arguments, in_channels)
        set_channels(name, config, in_channels)
        self.model = build_model("backbone", config)
        freeze(self.model, traits.unused)
        self.pyramid: FeaturePyramid | None = None
        if traits.has_pyramid:
            self.pyramid = FeaturePyramid(traits.feature_channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[2:]
        multiple = round(self.strides[-1])
        padded = F.pad(images, (0, -width % multiple, 0, -height % multiple))
        levels = list(self.model(padded).feature_maps)
        if self.pyramid is not None:
            levels = self.pyramid(levels)
        rows, columns = padded.shape[2:]
        return [
            # ceil(H / stride) without floating-point numbers.
            level[
                ..., : -(-height * level.shape[2] // rows), : -(-width * level.shape[3] // columns)
            ]
            for level in levels
        ]
