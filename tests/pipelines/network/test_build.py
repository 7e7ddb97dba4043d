"""Networks built from configuration: FENet and custom networks."""

import sys
import types
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models import Backbone, FENetConfig
from pipelines.data.dataset import open_dataset
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.image_size import check_evaluation
from pipelines.network.build import NetworkError, build_network, check_network
from pipelines.network.config import NetworkConfig
from pipelines.network.cost import multiply_adds, network_on_meta
from pipelines.network.init_weights import load_backbone_weights


class Linear(nn.Module):
    """A network of one convolution; `broken` selects a defect."""

    def __init__(self, classes: int, width: int = 3, broken: str = "") -> None:
        super().__init__()
        if broken == "constructor":
            raise RuntimeError("no such thing")
        if broken == "exit":
            sys.exit("unsupported")
        self.layer = nn.Conv2d(3, classes + (broken == "classes"), width, padding="same")
        self.broken = broken

    def forward(self, images: Tensor) -> object:
        if self.broken == "forward":
            raise RuntimeError("it broke")
        if self.broken == "memory":
            raise MemoryError
        if self.broken == "exit in training" and self.training:
            sys.exit()
        # A number is the height of the only images that the network takes.
        if self.broken.isdecimal() and images.shape[2] != int(self.broken):
            raise ValueError("wrong size")
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
def own_module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("own_module")
    module.Linear = Linear
    module.Configurable = Configurable
    module.function = lambda classes: None
    monkeypatch.setitem(sys.modules, "own_module", module)
    return module


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


class Adaptable(nn.Module):
    """A network for any number of channels."""

    def __init__(self, classes: int, in_channels: int = 5) -> None:
        super().__init__()
        self.layer = nn.Conv2d(in_channels, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images)


class Requiring(Adaptable):
    def __init__(self, classes: int, in_channels: int) -> None:
        super().__init__(classes, in_channels)


def test_own_networks_receive_the_number_of_channels(own_module: types.ModuleType) -> None:
    for cls in (Adaptable, Requiring, Coarse):
        setattr(own_module, cls.__name__, cls)
    adaptable, requiring = (NetworkConfig(f"own_module:{n}") for n in ("Adaptable", "Requiring"))
    assert build_network(adaptable, 7, 0, channels=4).layer.in_channels == 4
    assert build_network(requiring, 7, 0, channels=4).layer.in_channels == 4
    # With three channels, a default stays, which may have another meaning.
    assert build_network(adaptable, 7, 0).layer.in_channels == 5
    assert build_network(requiring, 7, 0).layer.in_channels == 3
    for config in (adaptable, requiring):
        check_network(config, 7, (32, 32), channels=4)
        total = multiply_adds(network_on_meta(config, 7, 4), config, 7, (32, 32), 4)
        assert sum(total.values()) == 4 * 7 * 32 * 32
    fixed = NetworkConfig("own_module:Adaptable", {"in_channels": 4})
    check_network(fixed, 7, (32, 32), channels=4)
    with pytest.raises(NetworkError, match="set its argument `in_channels` to 6, or remove it"):
        check_network(fixed, 7, (32, 32), channels=6)
    message = r"failed on images of \(2, 4, 32, 32\) .*have 4 channels, which a constructor with "
    for model in (
        NetworkConfig("own_module:Linear"),
        FENetConfig("own_module:Coarse", channels=8),
    ):
        with pytest.raises(NetworkError, match=message):
            check_network(model, 7, (32, 32), channels=4)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("constructor", r"its constructor failed \(RuntimeError: no such thing\)"),
        ("exit", r"its constructor failed \(SystemExit: unsupported\)"),
        ("forward", r"failed on images of \(2, 3, 32, 32\) \(RuntimeError: it broke\)"),
        ("memory", r"failed on images of \(2, 3, 32, 32\) \(MemoryError\)"),
        ("exit in training", r"failed on images of \(2, 3, 32, 32\) \(SystemExit\)"),
        ("48", r"failed on images of \(2, 3, 32, 32\) \(ValueError: wrong size\)"),
        ("classes", r"logits are \(2, 8, 32, 32\) .*they must be \(2, 7, height, width\)"),
        ("training", r"a network returned dict; it must return logits"),
    ],
)
def test_untrainable_networks_are_rejected(broken: str, message: str) -> None:
    config = NetworkConfig("own_module:Linear", {"broken": broken})
    with pytest.raises(NetworkError, match=message):
        check_network(config, 7, (32, 32))


class Coarse(Backbone):
    """A backbone; `channels` may differ from what it returns."""

    channels = (8, 12)
    strides = (2, 4)
    lateral_channels = 8
    widths = (8, 12)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, self.widths[0], 2, stride=2)
        self.second = nn.Conv2d(self.widths[0], self.widths[1], 2, stride=2)

    def forward(self, images: Tensor) -> list[Tensor]:
        first = self.first(images)
        return [first, self.second(first)]


class Wider(Coarse):
    widths = (8, 16)


class Exiting(Coarse):
    def __init__(self) -> None:
        sys.exit(4)


class Undeclared(Backbone):
    channels = (8,)


def test_own_backbone_is_checked(own_module: types.ModuleType) -> None:
    for cls in (Coarse, Wider, Exiting, Undeclared):
        setattr(own_module, cls.__name__, cls)
    check_network(FENetConfig("own_module:Coarse", channels=8), 7, (32, 32))
    for name, message in (
        ("Wider", r"FENet with backbone own_module:Wider: failed on images of \(2, 3, 32, 32\)"),
        ("Exiting", r"FENet with backbone own_module:Exiting: its constructor .*SystemExit: 4"),
    ):
        with pytest.raises(NetworkError, match=message):
            check_network(FENetConfig(f"own_module:{name}", channels=8), 7, (32, 32))
    with pytest.raises(ValueError, match="Undeclared: its class declares no `lateral_channels`"):
        FENetConfig("own_module:Undeclared")


def test_network_for_images_of_one_size(own_module: types.ModuleType, small_streets: Path) -> None:
    """It must fit the crop, and validation needs a window of its size."""
    config = NetworkConfig("own_module:Linear", {"broken": "288"})
    check_network(config, 7, (288, 288))
    network = network_on_meta(config, 7)
    assert sum(multiply_adds(network, config, 7, (288, 288)).values()) > 0
    with pytest.raises(NetworkError, match="failed on an image of 64 x 32 pixels"):
        multiply_adds(network, config, 7, (64, 32))
    split = open_dataset(small_streets).split("val")  # 32 x 64 pixels
    with pytest.raises(NetworkError, match=r"^validation: .* image of 32 x 64 .*evaluation\.w"):
        check_evaluation(config, 7, EvaluationConfig(), split)
    fitting = NetworkConfig("own_module:Linear", {"broken": "16"})
    check_evaluation(fitting, 7, EvaluationConfig(window=(16, 16)), split)
    check_evaluation(FENetConfig("dfnet1"), 7, EvaluationConfig(), split)


class Branching(Linear):
    def forward(self, images: Tensor) -> object:
        logits = self.layer(images)
        return logits if logits.sum() > 0 else -logits


def test_operations_that_depend_on_values_are_counted(own_module: types.ModuleType) -> None:
    own_module.Branching = Branching  # type: ignore[attr-defined]
    counts = [
        multiply_adds(network_on_meta(config, 7), config, 7, (24, 32))
        for config in (NetworkConfig(f"own_module:{name}") for name in ("Linear", "Branching"))
    ]
    assert counts[0] == counts[1] == {"layer": 7 * 3 * 3 * 3 * 24 * 32}


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


@pytest.mark.slow
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
