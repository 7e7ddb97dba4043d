"""Networks built from configuration: FENet and custom networks."""

import sys
import types

import pytest
import torch
from torch import Tensor, nn

from models import FENetConfig
from pipelines.network.build import NetworkError, build_network, check_network
from pipelines.network.config import NetworkConfig
from pipelines.network.init_weights import load_backbone_weights


class Linear(nn.Module):
    """A network of one convolution; `broken` selects a defect."""

    def __init__(self, classes: int, width: int = 3, broken: str = "") -> None:
        super().__init__()
        if broken == "constructor":
            raise RuntimeError("no such thing")
        self.layer = nn.Conv2d(3, classes + (broken == "classes"), width, padding="same")
        self.broken = broken

    def forward(self, images: Tensor) -> object:
        if self.broken == "forward":
            raise RuntimeError("it broke")
        if self.broken == "training" and self.training:
            return {"logits": self.layer(images)}
        logits = self.layer(images)
        return (logits, [logits[:, :, ::2, ::2]]) if self.training else logits


class Configurable(Linear):
    """A network that passes further arguments on, as those of segmentation_models.pytorch do."""

    def __init__(self, encoder: str, *, classes: int = 1, **kwargs: object) -> None:
        super().__init__(classes, **kwargs)
        self.encoder = encoder


@pytest.fixture(autouse=True)
def own_module(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("own_module")
    module.Linear = Linear
    module.Configurable = Configurable
    module.function = lambda classes: None
    monkeypatch.setitem(sys.modules, "own_module", module)


def test_seed_determines_weights_and_preserves_the_torch_generator() -> None:
    config = NetworkConfig("own_module:Linear", {"width": 3})
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = (build_network(config, 7, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.layer.weight.shape == (7, 3, 3, 3)
    assert torch.equal(first.layer.weight, second.layer.weight)
    assert not torch.equal(first.layer.weight, other.layer.weight)
    check_network(config, 7, (32, 32))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("constructor", r"its constructor failed \(RuntimeError: no such thing\)"),
        ("forward", r"failed on images of \(2, 3, 32, 32\) \(RuntimeError: it broke\)"),
        ("classes", r"logits are \(2, 8, 32, 32\) .*they must be \(2, 7, height, width\)"),
        ("training", r"a network returned dict; it must return logits"),
    ],
)
def test_untrainable_networks_are_rejected(broken: str, message: str) -> None:
    config = NetworkConfig("own_module:Linear", {"broken": broken})
    with pytest.raises(NetworkError, match=message):
        check_network(config, 7, (32, 32))


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        ("own_module:function", {}, "own_module has no torch.nn.Module function"),
        ("own_module:Absent", {}, "own_module has no torch.nn.Module Absent"),
        ("torch.nn:ReLU", {}, "its constructor has no argument `classes`"),
        ("own_module:Linear", {"depth": 3}, "unknown argument `depth`; known: width, broken"),
    ],
)
def test_invalid_classes_and_arguments_are_rejected(
    network: str, arguments: dict, message: str
) -> None:
    with pytest.raises(NetworkError, match=message):
        build_network(NetworkConfig(network, arguments), 7, seed=0)


def test_further_arguments_are_passed_to_a_constructor_that_takes_them() -> None:
    arguments = {"encoder": "small", "width": 5}
    network = build_network(NetworkConfig("own_module:Configurable", arguments), 7, seed=0)
    assert (network.encoder, network.layer.weight.shape) == ("small", (7, 3, 5, 5))
    check_network(NetworkConfig("own_module:Configurable", arguments), 7, (32, 32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 5}, "argument `encoder` is missing"),
        ({"encoder": "small", "depth": 5}, r"constructor failed \(TypeError: .*'depth'"),
        ({"encoder": "small", "classes": 5}, "remove the argument `classes`"),
    ],
)
def test_arguments_of_an_open_constructor_are_checked(arguments: dict, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        build_network(NetworkConfig("own_module:Configurable", arguments), 7, seed=0)


@pytest.mark.parametrize("network", ["own_module", "own module:X", ":X", "a:b:c", "a..b:C"])
def test_malformed_names_are_rejected(network: str) -> None:
    with pytest.raises(ValueError, match=r"it must be hf:NAME or package\.module:Class"):
        NetworkConfig(network)


def test_backbone_weights_are_loaded(tmp_path) -> None:
    source = build_network(FENetConfig(), 3, seed=1).backbone
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    network = build_network(FENetConfig(), 7, seed=3)
    report = load_backbone_weights(network, str(tmp_path / "resnet18.pth"))
    assert not report.missing
    for name, value in source.state_dict().items():
        assert torch.equal(network.backbone.state_dict()[name], value), name


def test_weights_for_a_network_without_backbone_are_rejected(tmp_path) -> None:
    network = build_network(NetworkConfig("own_module:Linear"), 7, seed=0)
    with pytest.raises(NetworkError, match=r"Linear has no `backbone`"):
        load_backbone_weights(network, str(tmp_path / "any.pth"))
