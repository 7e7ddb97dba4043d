"""Initial values: keyed by seed and name, except where a constructor sets them on purpose."""

import sys
import types
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from models import FEMOptions, FENet, FENetConfig, register_backbone, register_fem
from models.backbones import BACKBONES, Backbone
from models.cost import on_meta
from models.enhancement import DetailFEM
from models.registry import FEM_KINDS
from pipelines.network.build import build_network
from pipelines.network.config import NetworkConfig

PUBLISHED = nn.Conv2d(3, 4, 1).state_dict()
STATISTICS = {"running_mean": torch.arange(4.0), "running_var": torch.arange(1.0, 5.0)}


class Parts(nn.Module):
    """Parts whose values are set in every way that constructors use."""

    def __init__(self) -> None:
        super().__init__()
        self.fresh = nn.Conv2d(3, 4, 1)
        self.loaded = nn.Conv2d(3, 4, 1)
        self.assigned = nn.Conv2d(3, 4, 1)
        self.orthogonal = nn.Conv2d(3, 4, 1)
        self.filled = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.scale = nn.Parameter(torch.randn(4))
        self.loaded.load_state_dict(PUBLISHED)
        self.assigned.load_state_dict(PUBLISHED, assign=True)
        self.norm.load_state_dict(STATISTICS, strict=False)
        nn.init.orthogonal_(self.orthogonal.weight)
        self.filled.weight.data.fill_(0.5)  # does not count as a change of the parameter

    def forward(self, images: Tensor) -> Tensor:
        total = sum(
            layer(images)
            for layer in (self.fresh, self.loaded, self.assigned, self.orthogonal, self.filled)
        )
        return self.norm(total) * self.scale[:, None, None]


class OwnBackbone(Backbone):
    channels = (4, 4)
    strides = (1, 2)
    lateral_channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.parts = Parts()

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.parts(images)
        return [features, features[:, :, ::2, ::2]]


class OwnFEM(DetailFEM):
    def __init__(self, channels: int, options: FEMOptions) -> None:
        super().__init__(channels, options)
        self.offset = nn.Parameter(torch.randn(channels, 1, 1))


class OwnNetwork(nn.Module):
    def __init__(self, classes: int, extra: bool = False) -> None:
        super().__init__()
        self.extra = nn.Conv2d(3, 3, 1) if extra else nn.Identity()
        self.parts = Parts()
        self.classifier = nn.Conv2d(4, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.parts(self.extra(images)))


class Wrapper(nn.Module):
    """A network around FENet, which passes on no seed."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.inner = FENet(FENetConfig("own", ppm=False, flows=()), classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.inner(images)


class NeverReset(nn.Module):
    """A module that leaves its initialization to the caller."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(classes, 3, 1, 1))

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.conv2d(images, self.weight)


@pytest.fixture(autouse=True)
def own_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = types.ModuleType("own_module")
    module.__dict__.update(Network=OwnNetwork, NeverReset=NeverReset, Wrapper=Wrapper)
    monkeypatch.setitem(sys.modules, "own_module", module)
    register_backbone("own")(OwnBackbone)
    register_fem("own")(OwnFEM)
    yield
    del BACKBONES["own"], FEM_KINDS["own"]


def own_fenet(seed: int, *flows: str) -> FENet:
    return FENet(FENetConfig("own", ppm=False, flows=flows), 3, seed)


def own_network(seed: int, **arguments: object) -> nn.Module:
    return build_network(NetworkConfig("own_module:Network", arguments), 3, seed)


@pytest.mark.parametrize("kind", ["backbone", "network"])
def test_weights_set_by_a_constructor_are_kept(kind: str) -> None:
    networks = [
        own_fenet(seed).backbone if kind == "backbone" else own_network(seed) for seed in (1, 2)
    ]
    for network in networks:
        parts = network.parts
        for layer in (parts.loaded, parts.assigned):
            assert torch.equal(layer.weight, PUBLISHED["weight"])
            assert torch.equal(layer.bias, PUBLISHED["bias"])
        for name, value in STATISTICS.items():
            assert torch.equal(parts.norm.state_dict()[name], value)
        rows = parts.orthogonal.weight.flatten(start_dim=1)
        torch.testing.assert_close(rows.T @ rows, torch.eye(3))
        assert bool((parts.filled.weight == 0.5).all())


@pytest.mark.parametrize("kind", ["backbone", "network"])
def test_values_that_a_constructor_draws_follow_the_seed(kind: str) -> None:
    def values(seed: int, caller: int) -> list[Tensor]:
        torch.manual_seed(caller)
        network = own_fenet(seed).backbone if kind == "backbone" else own_network(seed)
        parts = network.parts
        return [parts.fresh.weight, parts.orthogonal.weight, parts.scale]

    first, again, other = values(1, caller=5), values(1, caller=6), values(2, caller=5)
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))


def test_parts_start_from_the_same_values_in_every_variant() -> None:
    plain, both = own_fenet(1, "own"), own_fenet(1, "semantic", "own", "own")
    state = both.state_dict()
    for name, value in plain.state_dict().items():
        if name.startswith(("backbone.", "neck.", "flows.own.")):
            assert torch.equal(state[name], value), name
    assert not torch.equal(state["flows.own.fems.0.offset"], state["flows.own2.fems.0.offset"])


def test_layers_of_a_custom_network_are_keyed_by_name() -> None:
    plain, extra = own_network(1), own_network(1, extra=True)
    assert torch.equal(plain.classifier.weight, extra.classifier.weight)
    assert torch.equal(plain.parts.fresh.weight, extra.parts.fresh.weight)


def test_fenet_within_a_custom_network_follows_the_seed() -> None:
    inner = build_network(NetworkConfig("own_module:Wrapper"), 3, seed=2).inner
    for name, value in own_fenet(2).state_dict().items():
        assert torch.equal(inner.state_dict()[name], value), name
    assert torch.equal(
        FENet(inner.config, 3).head.conv.conv.weight, own_fenet(0).head.conv.conv.weight
    )


def test_modules_that_only_define_their_initialization_are_initialized() -> None:
    config = NetworkConfig("own_module:NeverReset")
    first, again, other = (build_network(config, 3, seed) for seed in (1, 1, 2))
    assert bool(first.weight.any())
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)


def test_backbones_that_load_weights_are_counted_without_warnings() -> None:
    network = on_meta(FENetConfig("own", ppm=False, flows=()), 3)
    assert all(value.is_meta for value in network.parameters())
