"""Which tensors of a checkpoint timm has loaded; a stand-in for timm adapts made-up weights."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.pretrained import PretrainedError
from models.timm_weights import _sources, load_timm


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


class Model(nn.Module):
    """A model whose position embeddings have 9 places."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, 9, 4))
        self.stages_0 = nn.Conv2d(3, 4, 1)
        self.scale = nn.Parameter(torch.ones(4))


class Backbone:
    """As `TimmBackbone`, with a model that repeats the position embeddings of a checkpoint."""

    name = "timm:made_up"
    in_channels = 3

    def __init__(self) -> None:
        self.model = Model()

    def with_weights(self, tensors: Mapping[str, Tensor]) -> nn.Module:
        model = Model()
        renamed = {key.replace("stages.0", "stages_0"): value for key, value in tensors.items()}
        if "pos_embed" in renamed:
            renamed["pos_embed"] = renamed["pos_embed"].mean(dim=1, keepdim=True).repeat(1, 9, 1)
        model.load_state_dict(renamed, strict=False)
        return model


def checkpoint(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    tensors = {
        "pos_embed": numbers(1, 4, 4),
        "stages.0.weight": numbers(4, 3, 1, 1),
        "stages.0.bias": numbers(4),
        "head.weight": numbers(5, 4),
    }
    return {key: value.to(dtype) for key, value in tensors.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_adapted_tensors_of_any_precision_are_loaded(dtype: torch.dtype) -> None:
    backbone: Any = Backbone()
    tensors = checkpoint(dtype)
    report = load_timm(backbone, tensors)
    assert report.loaded == {
        "pos_embed": "pos_embed",
        "stages_0.weight": "stages.0.weight",
        "stages_0.bias": "stages.0.bias",
    }
    assert report.missing == {"scale": "not in the checkpoint"}
    assert report.unused == {"head.weight": "not part of the backbone"}
    assert report.note == "pos_embed: adapted by timm"
    expected = Backbone().with_weights(tensors).state_dict()
    for key, value in backbone.model.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_renamed_tensors_are_found_by_their_values() -> None:
    """A key of the same name may belong to another tensor, as in earlier versions of Swin."""
    first, second = numbers(2, 3), numbers(3, 3)
    loaded = {"layers_1.weight": first, "layers_2.weight": second}
    tensors = {"layers.0.weight": first, "layers.1.weight": second}
    assert _sources(loaded, tensors) == (
        {"layers_1.weight": "layers.0.weight", "layers_2.weight": "layers.1.weight"},
        [],
    )


def test_weights_of_another_model_are_refused() -> None:
    backbone: Any = Backbone()
    with pytest.raises(PretrainedError, match="nothing in the checkpoint fits timm:made_up"):
        load_timm(backbone, {"other.weight": numbers(7)})
