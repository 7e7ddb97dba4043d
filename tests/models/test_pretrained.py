"""Pretrained weights in every published layout, built with the published tensor names."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from models import FENet, FENetConfig, PretrainedError, load_pretrained
from models.backbones import BACKBONES, Backbone, backbone_class, build_backbone

DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
State = dict[str, Tensor]


class Publisher:
    """Creates distinct tensors under published names."""

    def __init__(self) -> None:
        self.state: State = {}
        self.generator = torch.Generator().manual_seed(0)

    def conv(self, name: str, out_channels: int, in_channels: int, size: int) -> None:
        shape = (out_channels, in_channels, size, size)
        self.state[f"{name}.weight"] = torch.randn(shape, generator=self.generator)

    def norm(self, name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            self.state[f"{name}.{part}"] = torch.rand(channels, generator=self.generator)
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def block(self, name: str, in_channels: int, width: int, stride: int, bottleneck: bool) -> int:
        out_channels = 4 * width if bottleneck else width
        sizes = (1, 3, 1) if bottleneck else (3, 3)
        inputs = (in_channels, *[width] * (len(sizes) - 1))
        outputs = (*[width] * (len(sizes) - 1), out_channels)
        for i, (a, b, size) in enumerate(zip(inputs, outputs, sizes, strict=True), start=1):
            self.conv(f"{name}.conv{i}", b, a, size)
            self.norm(f"{name}.bn{i}", b)
        if stride > 1 or in_channels != out_channels:
            self.conv(f"{name}.downsample.0", out_channels, in_channels, 1)
            self.norm(f"{name}.downsample.1", out_channels)
        return out_channels

    def stem(self, names: list[tuple[str, str]], widths: tuple[int, ...], size: int = 3) -> None:
        inputs = (3, *widths[:-1])
        for (conv, norm), in_channels, out_channels in zip(names, inputs, widths, strict=True):
            self.conv(conv, out_channels, in_channels, size)
            self.norm(norm, out_channels)

    def resnet(self, name: str, stem_width: int) -> None:
        in_channels = stem_width
        for stage, depth in enumerate(DEPTHS[name]):
            for position in range(depth):
                stride = 2 if stage and not position else 1
                block = f"layer{stage + 1}.{position}"
                in_channels = self.block(
                    block, in_channels, 64 * 2**stage, stride, name != "resnet18"
                )
        self.state["fc.weight"] = torch.randn(1000, in_channels, generator=self.generator)
        self.state["fc.bias"] = torch.randn(1000, generator=self.generator)


def torchvision(name: str) -> State:
    publisher = Publisher()
    publisher.stem([("conv1", "bn1")], (64,), size=7)
    publisher.resnet(name, 64)
    return publisher.state


def numbered(name: str) -> State:
    """MIT CSAIL layout: conv1, bn1, conv2, bn2, conv3, bn3."""
    return dict(_numbered(name))


@functools.lru_cache(maxsize=1)  # most tests use it, and the random numbers take time
def _numbered(name: str) -> State:
    publisher = Publisher()
    publisher.stem([(f"conv{i}", f"bn{i}") for i in (1, 2, 3)], (64, 64, 128))
    publisher.resnet(name, 128)
    return publisher.state


def sequential(name: str, widths: tuple[int, ...] = (64, 64, 128)) -> State:
    """SFNet layout: the stem is one sequence, followed by its last batch norm."""
    publisher = Publisher()
    names = [("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1")]
    publisher.stem(names, widths)
    publisher.resnet(name, widths[-1])
    return publisher.state


def with_pooled_shortcuts(state: State) -> State:
    """Shift the shortcut layers by one; these shortcuts start with average pooling."""
    renamed = {}
    for key, value in state.items():
        key = key.replace("downsample.1", "downsample.2").replace("downsample.0", "downsample.1")
        renamed[key] = value
    return renamed


def timm_d(name: str) -> State:
    return with_pooled_shortcuts(sequential(name, (32, 32, 64)))


def mmsegmentation(name: str) -> State:
    """mmsegmentation v1c layout of a whole segmentation network."""
    publisher = Publisher()
    names = [(f"stem.{i}", f"stem.{i + 1}") for i in (0, 3, 6)]
    publisher.stem(names, (32, 32, 64))
    publisher.resnet(name, 64)
    body = {f"backbone.{k}": v for k, v in publisher.state.items() if not k.startswith("fc")}
    return {**body, "decode_head.conv_seg.weight": torch.randn(19, 512, 1, 1)}


def sfnet_dfnet(name: str) -> State:
    publisher = Publisher()
    publisher.stem([("stage1.0", "stage1.1"), ("stage1.3", "stage1.4")], (32, 64))
    groups = {
        "dfnet1": [("stage2", 64, 3, 2), ("stage3", 128, 3, 2), ("stage4", 256, 3, 2),
                   ("stage5", 512, 1, 1)],
        "dfnet2": [("stage2_1", 64, 2, 2), ("stage2_2", 128, 1, 1), ("stage3_1", 128, 10, 2),
                   ("stage3_2", 256, 1, 1), ("stage4_1", 256, 4, 2), ("stage4_2", 512, 2, 1)],
    }  # fmt: skip
    in_channels = 64
    for group, width, blocks, stride in groups[name]:
        for position in range(blocks):
            block_stride = 1 if position else stride
            in_channels = publisher.block(
                f"{group}.{position}", in_channels, width, block_stride, False
            )
    return publisher.state


RESNET_LAYOUTS: dict[str, tuple[Callable[[str], State], str, str]] = {
    "torchvision": (torchvision, "plain", "torchvision"),
    "csail": (numbered, "64-64-128", "MIT CSAIL"),
    "sfnet": (sequential, "64-64-128", "SFNet"),
    "timm-d": (timm_d, "32-32-64", "timm resnet*d"),
    "mmsegmentation": (mmsegmentation, "32-32-64", "mmsegmentation v1c"),
}


def published_weights() -> Iterator[tuple[str, str | None, State, str]]:
    for name in ("resnet18", "resnet50"):
        for make, stem, layout in RESNET_LAYOUTS.values():
            yield name, stem, make(name), layout
    yield "resnet101", "64-64-128", numbered("resnet101"), "MIT CSAIL"
    for name in ("dfnet1", "dfnet2"):
        yield name, None, sfnet_dfnet(name), "SFNet"


def build(name: str, stem: str | None = None) -> Backbone:
    stems = backbone_class(name).stems
    return build_backbone(name, stem or (stems[0] if stems else None), dilation=False)


def outputs(backbone: Backbone, image: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return backbone.eval()(image)


@pytest.mark.slow
def test_every_published_layout_loads_completely() -> None:
    for name, stem, state, layout in published_weights():
        backbone = build(name, stem)
        report = load_pretrained(backbone, state)
        assert layout in report.layout
        assert report.missing == {}
        expected_unused = {key for key in state if key.startswith(("fc", "decode_head"))}
        assert set(report.unused) == expected_unused
        assert sorted(report.loaded.values()) == sorted(state.keys() - expected_unused)
        for target, source in report.loaded.items():
            assert torch.equal(backbone.state_dict()[target], state[source])
        assert bool(report.note) == (layout == "timm resnet*d")


def reference_forward(state: State, image: Tensor, stem: list[tuple[str, str]]) -> Tensor:
    """Compute ResNet-18 in evaluation mode from the published names."""

    def norm(name: str, x: Tensor) -> Tensor:
        stats = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return torch.nn.functional.batch_norm(
            x, *stats, state[f"{name}.weight"], state[f"{name}.bias"]
        )

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return torch.nn.functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    x = image
    for position, (conv_name, norm_name) in enumerate(stem):
        x = norm(norm_name, conv(conv_name, x, 1 if position else 2)).relu()
    x = torch.nn.functional.max_pool2d(x, 3, 2, 1)
    for stage in (1, 2, 3, 4):
        for position in (0, 1):
            block = f"layer{stage}.{position}"
            stride = 2 if stage > 1 and not position else 1
            y = norm(f"{block}.bn1", conv(f"{block}.conv1", x, stride)).relu()
            y = norm(f"{block}.bn2", conv(f"{block}.conv2", y))
            if f"{block}.downsample.0.weight" in state:
                shortcut = conv(f"{block}.downsample.0", x, stride)
                x = norm(f"{block}.downsample.1", shortcut)
            x = (x + y).relu()
    return x


@pytest.mark.parametrize(
    ("make", "stem_name", "stem"),
    [
        (torchvision, "plain", [("conv1", "bn1")]),
        (numbered, "64-64-128", [("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")]),
    ],
)
def test_loaded_weights_match_the_published_network(
    make: Callable[[str], State], stem_name: str, stem: list[tuple[str, str]]
) -> None:
    state = {
        key: value / value[0].numel() ** 0.5 if value.dim() == 4 else value
        for key, value in make("resnet18").items()
    }
    backbone = build("resnet18", stem_name)
    load_pretrained(backbone, state)
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    expected = reference_forward(state, image, stem)
    torch.testing.assert_close(outputs(backbone, image)[-1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module.backbone.", "encoder."])
def test_wrapped_and_prefixed_checkpoints_are_loaded(wrapper: str, prefix: str) -> None:
    state = numbered("resnet18")
    checkpoint = {wrapper: {f"{prefix}{k}": v for k, v in state.items()}, "epoch": 3}
    backbone = build("resnet18")
    report = load_pretrained(backbone, checkpoint)
    assert report.missing == {}
    weight = backbone.state_dict()["stem.2.conv.weight"]
    assert torch.equal(weight, state["conv3.weight"])


def test_weights_of_a_fenet_are_loaded() -> None:
    trained = FENet(FENetConfig("resnet18", channels=8), 5, seed=3)
    backbone = build("resnet18")
    report = load_pretrained(backbone, trained.state_dict())
    assert report.layout == "this package"
    assert report.missing == {}
    for name, value in trained.backbone.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], value)
    assert all(reason == "outside backbone" for reason in report.unused.values())


def test_half_precision_weights_are_cast_to_the_model_dtype() -> None:
    state = {key: value.half() for key, value in numbered("resnet18").items()}
    backbone = build("resnet18")
    load_pretrained(backbone, state)
    weight = backbone.state_dict()["layer1.0.conv1.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, state["layer1.0.conv1.weight"].float())


@pytest.mark.slow
def test_missing_and_unused_tensors_are_reported() -> None:
    state = numbered("resnet18")
    del state["layer4.1.bn2.running_var"]
    backbone = build("resnet18")
    report = load_pretrained(backbone, {**state, "optimizer": {"lr": 1}})
    assert report.missing == {"layer4.1.bn2.running_var": "not in the checkpoint"}
    assert report.unused["optimizer"] == "not a tensor but dict"
    assert report.unused["fc.weight"] == "not part of the backbone"
    text = str(report)
    assert "missing: 1 tensors" in text
    assert "layer4.1.bn2.running_var: not in the checkpoint" in text
    assert "fc.bias: not part of the backbone" in text


def test_batch_counters_are_optional() -> None:
    state = {k: v for k, v in numbered("resnet18").items() if "num_batches" not in k}
    assert load_pretrained(build("resnet18"), state).missing == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "make", "name", "options"),
    [
        (("resnet18", "64-64-128"), torchvision, "resnet18", "backbone: resnet18, stem: plain"),
        (("resnet18", "plain"), numbered, "resnet18", "backbone: resnet18, stem: 64-64-128"),
        (("resnet50", "64-64-128"), timm_d, "resnet50", "backbone: resnet50, stem: 32-32-64"),
        (("resnet18", "plain"), torchvision, "resnet50", "backbone: resnet50, stem: plain"),
        # ResNet-101 contains all tensors of ResNet-50, which contains most of ResNet-101's.
        (("resnet50", "64-64-128"), sequential, "resnet101", "backbone: resnet101, stem: 64-64"),
        (("resnet101", "64-64-128"), sequential, "resnet50", "backbone: resnet50, stem: 64-64"),
        (("dfnet1", None), sfnet_dfnet, "dfnet2", "backbone: dfnet2"),
        (("resnet18", "plain"), sfnet_dfnet, "dfnet1", "backbone: dfnet1"),
        (("dfnet2", None), mmsegmentation, "resnet18", "backbone: resnet18, stem: 32-32-64"),
    ],
)
def test_error_names_the_options_that_fit_the_weights(
    model: tuple[str, str | None], make: Callable[[str], State], name: str, options: str
) -> None:
    backbone = build(*model)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with pytest.raises(PretrainedError, match=f"set {options}"):
        load_pretrained(backbone, make(name))
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.slow
def test_unknown_stem_is_rejected() -> None:
    message = r"stem\.0\.conv\.weight is \(48, 3, 3, 3\) in the checkpoint.*stem can be 64-64-128"
    with pytest.raises(PretrainedError, match=message):
        load_pretrained(build("resnet18"), sequential("resnet18", (48, 48, 96)))


@pytest.mark.slow
def test_unknown_depth_is_rejected() -> None:
    state = numbered("resnet18")
    publisher = Publisher()
    publisher.block("layer3.2", 256, 256, 1, False)
    with pytest.raises(PretrainedError, match=r"the model has no layer3\.2\.conv1\.weight"):
        load_pretrained(build("resnet18"), {**state, **publisher.state})


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_unrelated_weights_are_rejected(name: str) -> None:
    with pytest.raises(PretrainedError, match=rf"nothing in the checkpoint fits .*{name}"):
        load_pretrained(build(name), {"a.weight": torch.ones(3)})


@pytest.mark.slow
@pytest.mark.parametrize("state", [{}, {"state_dict": {"x": 1}}, {0: torch.ones(3)}], ids=str)
def test_checkpoints_without_names_of_tensors_are_rejected(state: dict[Any, object]) -> None:
    with pytest.raises(PretrainedError, match=r"nothing in the checkpoint fits .*dfnet1"):
        load_pretrained(build("dfnet1"), state)
