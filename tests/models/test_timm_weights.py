"""Backbones of timm. It needs torchvision, so these tests run in an environment of their own:
`make test-timm`."""

from typing import Any

import pytest
import torch
from torch import Tensor

from models import FENet, FENetConfig
from models.backbones import build_backbone
from models.config import backbone_traits
from models.pretrained import PretrainedError
from models.timm_weights import load_timm
from pipelines.network.build import build_network, check_network
from pipelines.network.config import NetworkConfig

timm = pytest.importorskip("timm", exc_type=ImportError)

MODELS = {
    "resnet18": ((64, 128, 256, 512), (4, 8, 16, 32)),
    "convnextv2_atto": ((40, 80, 160, 320), (4, 8, 16, 32)),
    "swin_tiny_patch4_window7_224": ((96, 192, 384, 768), (4, 8, 16, 32)),
    "efficientnet_b0": ((24, 40, 112, 320), (4, 8, 16, 32)),
    "vit_tiny_patch16_224": ((48, 96, 192, 192), (4, 8, 16, 32)),
}


@pytest.mark.parametrize("name", MODELS)
def test_levels_have_the_declared_shapes(name: str) -> None:
    channels, strides = MODELS[name]
    traits = backbone_traits(f"timm:{name}", {})
    assert (traits.channels, traits.strides) == (channels, strides)
    backbone = build_backbone(f"timm:{name}", None, False).eval()
    with torch.no_grad():
        levels = backbone(torch.randn(2, 3, 70, 101))
    for level, width, stride in zip(levels, channels, strides, strict=True):
        assert level.shape == (2, width, -(-70 // stride), -(-101 // stride))


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_that_is_trained_gets_a_gradient(name: str) -> None:
    network = FENet(FENetConfig(backbone=f"timm:{name}", channels=8), 4).train()
    logits = network(torch.randn(2, 3, 64, 96))
    logits.sum().backward()
    without = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert not without


def test_initial_values_follow_the_seed_and_names() -> None:
    config = FENetConfig(backbone="timm:resnet18", channels=8)
    torch.manual_seed(5)
    first = FENet(config, 4, seed=3).state_dict()
    torch.manual_seed(6)
    second = FENet(config, 4, seed=3).state_dict()
    other = FENet(config, 4, seed=4).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(
        first["backbone.model.conv1.weight"], other["backbone.model.conv1.weight"]
    )


def published(name: str, **options: Any) -> tuple[torch.nn.Module, dict[str, Tensor]]:
    """Return a whole model of timm with its classifier, and its weights as timm publishes them."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = timm.create_model(name, **options).eval()
    return model, model.state_dict()


@pytest.mark.parametrize("name", ["resnet18", "convnextv2_atto"])
def test_published_weights_give_the_features_of_the_whole_model(name: str) -> None:
    whole, weights = published(name)
    backbone: Any = build_backbone(f"timm:{name}", None, False).eval()
    report = load_timm(backbone, {"state_dict": weights})
    assert not report.missing
    assert set(report.unused) <= {key for key in weights if key.startswith(("fc.", "head."))}
    images = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        assert torch.equal(backbone(images)[-1], whole.forward_features(images))


def test_first_filters_are_adapted_to_other_channels() -> None:
    _, weights = published("resnet18")
    backbone: Any = build_backbone("timm:resnet18", None, False, in_channels=4)
    report = load_timm(backbone, weights)
    assert not report.missing
    assert "4" in report.note
    assert backbone.model.conv1.weight.shape[1] == 4
    expected = timm.create_model(
        "resnet18",
        in_chans=4,
        pretrained=True,
        pretrained_cfg_overlay={"state_dict": dict(weights), "url": None, "hf_hub_id": None},
    ).conv1.weight
    assert torch.equal(backbone.model.conv1.weight, expected)


def test_weights_of_another_model_are_refused() -> None:
    _, weights = published("convnextv2_atto")
    backbone: Any = build_backbone("timm:resnet18", None, False)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(PretrainedError, match="resnet18"):
        load_timm(backbone, weights)
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet81", {}, "timm has no model 'resnet81'; did you mean timm:resnet18"),
        ("resnet18", {"pretrained": True}, "`pretrained` is set by this project"),
        ("resnet18", {"dept": 3}, "cannot be built"),
    ],
)
def test_wrong_models(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        backbone_traits(f"timm:{name}", arguments)


@pytest.mark.parametrize("channels", [3, 4])
def test_network_of_segmentation_models_pytorch_is_a_row(channels: int) -> None:
    """Without a wrapper, by the name of its class."""
    pytest.importorskip("segmentation_models_pytorch", exc_type=ImportError)
    config = NetworkConfig(
        "segmentation_models_pytorch:Unet",
        {"encoder_name": "resnet18", "encoder_weights": None},
    )
    check_network(config, 5, (64, 96), channels)
    network = build_network(config, 5, 0, channels).eval()
    with torch.no_grad():
        assert network(torch.randn(1, channels, 64, 96)).shape == (1, 5, 64, 96)
