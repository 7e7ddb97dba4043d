"""Networks of `transformers` for semantic segmentation, such as SegFormer and UPerNet."""

import json
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

from torch import Tensor, nn

from models.hugging_face.build import build_model, freeze, probe, unreached
from models.hugging_face.configuration import (
    check_channels,
    model_config,
    normalization,
    set_channels,
)
from models.normalization import renormalize


class HuggingFaceNetwork(nn.Module):
    """A network of `AutoModelForSemanticSegmentation` that receives ImageNet's normalization.

    An auxiliary head is computed in training only.

    Args:
        name: `hf:TYPE`, such as `hf:segformer`.
        classes: number of classes of the logits.
        arguments: entries of the model's configuration, and `image_mean` and `image_std` of the
            normalization it expects.
        in_channels: channels of the images.

    Raises:
        ValueError: there is no such network, or an argument is not valid.
    """

    auxiliary_parts = ("model.auxiliary_head",)

    def __init__(
        self, name: str, classes: int, arguments: Mapping[str, Any], in_channels: int = 3
    ) -> None:
        super().__init__()
        self.classes = classes
        self.mean, self.std = normalization(arguments)
        unused = _unused(name, json.dumps(arguments, sort_keys=True, default=list))
        check_channels(name, arguments, in_channels)
        self.model = build_model("network", _config(name, classes, arguments, in_channels))
        freeze(self.model, unused)
        self._auxiliary: Tensor | None = None
        # The library computes the logits of this head, but does not return them.
        head = getattr(self.model, "auxiliary_head", None)
        if head is not None:
            head.register_forward_hook(self._keep)
            head.forward = partial(_in_training, head)

    def _keep(self, _head: nn.Module, _features: Any, logits: Tensor) -> None:
        self._auxiliary = logits

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Return the logits of normalized images `(N, C, H, W)`: `(N, K, h, w)`, during training
        with the auxiliary logits if there are any."""
        output = self.model(pixel_values=renormalize(images, self.mean, self.std), return_dict=True)
        auxiliary, self._auxiliary = self._auxiliary, None
        if self.training and auxiliary is not None:
            return output.logits, {"auxiliary": auxiliary}
        return output.logits


def _in_training(head: nn.Module, features: Any) -> Any:
    """Return the auxiliary logits in training; in evaluation, where the library computes them too
    and uses them for nothing, logits of no image."""
    if head.training:
        return type(head).forward(head, features)
    some = features[-1] if isinstance(features, list | tuple) else features
    return some.new_empty(0, 1, 1, 1)


def _config(name: str, classes: int, arguments: Mapping[str, Any], channels: int) -> Any:
    config = model_config("network", name, arguments)
    config.num_labels = classes
    set_channels(name, config, channels)
    return config


@cache
def _unused(name: str, text: str) -> frozenset[str]:
    """Return the names of the parameters that the logits do not depend on."""
    config = _config(name, 2, json.loads(text), channels=3)

    def logits(model: nn.Module, images: Tensor) -> list[Tensor]:
        kept: list[Tensor] = []
        head = getattr(model, "auxiliary_head", None)
        if head is not None:
            head.register_forward_hook(lambda _head, _features, logits: kept.append(logits))
        return [model(pixel_values=images, return_dict=True).logits, *kept]

    model, _, outputs = probe("network", name, config, logits)
    return unreached(model, outputs)
