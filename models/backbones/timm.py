"""Backbones of the library `timm` (`features_only`), such as `timm:convnextv2_tiny`."""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from models.backbones.library import MAX_LEVELS, LibraryBackbone, Traits
from models.hugging_face.build import freeze, unreached
from models.initialization import meta_device
from models.user_code import failures_as

_PREFIX = "timm:"
_PROBE_SIZE = 224
# Options of some models that let them take images of any size; the first that a model has is set.
_ANY_SIZE: tuple[dict[str, Any], ...] = (
    {"dynamic_img_size": True},
    {"strict_img_size": False},
    {},
)
# What this project decides itself.
_RESERVED = ("features_only", "pretrained", "in_chans", "num_classes", "pretrained_cfg")


def _library() -> Any:
    """Return the module `timm`. Raises ValueError if it cannot be imported."""
    try:
        return import_module("timm")
    except Exception as error:  # it imports torchvision, which must fit torch
        raise ValueError(
            f"models named timm:... need the package timm, which cannot be imported ({error}); "
            "run: pip install timm (or install this project's extra, "
            "'segmentation-orchestrator[timm]')"
        ) from error


def _create(name: str, arguments: Mapping[str, Any], channels: int, **options: Any) -> nn.Module:
    """Build a model, taking images of any size if it can. Raises ValueError."""
    timm = _library()
    short = name.removeprefix(_PREFIX)
    if not timm.is_model(short):
        close = get_close_matches(short, timm.list_models(), 1)
        advice = f"; did you mean {_PREFIX}{close[0]}?" if close else ""
        raise ValueError(f"timm has no model {short!r}{advice}")
    for reserved in _RESERVED:
        if reserved in arguments:
            raise ValueError(f"{name}: `{reserved}` is set by this project; remove it")
    failures: list[ValueError] = []
    for more in _ANY_SIZE:
        try:
            with failures_as(ValueError, f"{name}: cannot be built"):
                model: nn.Module = timm.create_model(
                    short,
                    features_only=True,
                    in_chans=channels,
                    **{**more, **arguments, **options},
                )
            return model
        except ValueError as error:
            failures.append(error)
    raise failures[-1]


@cache
def _traits(name: str, text: str) -> tuple[Traits, bool]:
    """Return the traits of a model, and whether its features are `(N, H, W, C)`."""
    arguments: dict[str, Any] = json.loads(text)
    with torch.random.fork_rng(devices=[]), meta_device():
        if "out_indices" not in arguments:
            info: Any = _create(name, arguments, 3).feature_info
            # The last stage of each stride: a stem may have that of the first stage.
            last = dict(zip(info.reduction(), info.out_indices, strict=True))
            arguments["out_indices"] = [*last.values()][-MAX_LEVELS:]
        model = _create(name, arguments, 3)
        images = torch.empty(2, 3, _PROBE_SIZE, _PROBE_SIZE)
        with failures_as(ValueError, f"{name}: failed on images of {tuple(images.shape)}"):
            levels = list(model(images))
    info = model.feature_info
    channels = list(info.channels())
    last_dimension = [level.shape[-1] for level in levels] == channels
    channels_last = last_dimension and [level.shape[1] for level in levels] != channels
    strides = [
        images.shape[-1] / (level.shape[2] if channels_last else level.shape[-1])
        for level in levels
    ]
    traits = Traits.of_features(
        name, channels, strides, arguments["out_indices"], unreached(model, levels)
    )
    return traits, channels_last


class TimmBackbone(LibraryBackbone):
    """A backbone of `timm.create_model(..., features_only=True)`.

    Models that take images of one size only by default are built for any size, if they can. The
    images have the normalization of the model's pretrained weights.

    Args:
        name: `timm:MODEL`, such as `timm:resnet50d`.
        arguments: those of the model's constructor, such as `drop_path_rate` or `out_indices`.
        in_channels: channels of the images.

    Raises:
        ValueError: there is no such model, or an argument is not valid.
    """

    def __init__(self, name: str, arguments: Mapping[str, Any], in_channels: int = 3) -> None:
        traits, has_channels_last = _traits(name, _text(arguments))
        build = (name, {**arguments, "out_indices": list(traits.stages)}, in_channels)
        settings = _library().get_pretrained_cfg(name.removeprefix(_PREFIX))
        super().__init__(_create(*build), traits, settings.mean, settings.std)
        freeze(self.model, traits.unused)
        self.name = name
        self._build = build
        self._has_channels_last = has_channels_last

    @staticmethod
    def traits(name: str, arguments: Mapping[str, Any]) -> Traits:
        return _traits(name, _text(arguments))[0]

    def features(self, images: Tensor) -> list[Tensor]:
        levels = list(self.model(images))
        if self._has_channels_last:
            levels = [level.permute(0, 3, 1, 2).contiguous() for level in levels]
        return levels

    def with_weights(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        """Build the model again with published weights of the whole model, through timm, which
        renames keys and adapts the first filters to other numbers of channels.

        Raises:
            ValueError: they do not fit.
        """
        source = {"state_dict": dict(tensors), "file": None, "url": None, "hf_hub_id": None}
        with torch.random.fork_rng(devices=[]):
            return _create(*self._build, pretrained=True, pretrained_cfg_overlay=source)


def _text(arguments: Mapping[str, Any]) -> str:
    return json.dumps(arguments, sort_keys=True, default=list)
