"""EfficientNet-Lite0 against its published description, tensor names and padding."""

import functools
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models import FENet, FENetConfig, load_pretrained
from models.backbones import Backbone, build_backbone
from models.normalization import IMAGENET_MEAN, IMAGENET_STD

# Blocks as TensorFlow's implementation writes them: repetitions, kernel size, stride, expansion,
# input and output channels.
PUBLISHED_BLOCKS = (
    *("r1_k3_s1_e1_i32_o16", "r2_k3_s2_e6_i16_o24", "r2_k5_s2_e6_i24_o40", "r3_k3_s2_e6_i40_o80"),
    *("r3_k5_s1_e6_i80_o112", "r4_k5_s2_e6_i112_o192", "r1_k3_s1_e6_i192_o320"),
)


def lite0() -> Backbone:
    return build_backbone("efficientnet-lite0", None, dilation=False)


def published_blocks() -> list[tuple[int, int, int, int, int]]:
    """Return kernel size, stride, expansion, input and output channels of every block."""
    blocks = []
    for text in PUBLISHED_BLOCKS:
        repetitions, size, stride, expansion, inputs, outputs = map(int, re.findall(r"\d+", text))
        blocks.append((size, stride, expansion, inputs, outputs))
        blocks += [(size, 1, expansion, outputs, outputs)] * (repetitions - 1)
    return blocks


@functools.cache
def published_state() -> dict[str, Tensor]:
    """Return random weights under the published names, with the classifier."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}

    def add(conv: str, norm: str, outputs: int, inputs: int, size: int = 1) -> None:
        weight = torch.randn(outputs, inputs, size, size, generator=generator, dtype=torch.float64)
        state[f"{conv}.weight"] = weight / weight[0].numel() ** 0.5
        for part in ("weight", "bias", "running_mean", "running_var"):
            values = torch.rand(outputs, generator=generator, dtype=torch.float64)
            state[f"{norm}.{part}"] = values + 0.5
        state[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    add("_conv_stem", "_bn0", 32, 3, 3)
    for index, (size, _, expansion, inputs, outputs) in enumerate(published_blocks()):
        block, width = f"_blocks.{index}", inputs * expansion
        if expansion > 1:
            add(f"{block}._expand_conv", f"{block}._bn0", width, inputs)
        add(f"{block}._depthwise_conv", f"{block}._bn1", width, 1, size)
        add(f"{block}._project_conv", f"{block}._bn2", outputs, width)
    add("_conv_head", "_bn1", 1280, 320)
    state["_fc.weight"], state["_fc.bias"] = torch.randn(1000, 1280), torch.randn(1000)
    return state


def reference_levels(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """Compute the levels in evaluation mode from the published names, padded as in TensorFlow."""

    def layer(x: Tensor, conv: str, norm: str, stride: int = 1, relu: bool = True) -> Tensor:
        weight = state[f"{conv}.weight"]
        padding = []
        for side in (x.shape[3], x.shape[2]):
            total = max((math.ceil(side / stride) - 1) * stride + weight.shape[-1] - side, 0)
            padding += [total // 2, total - total // 2]
        groups = x.shape[1] // weight.shape[1]
        x = F.conv2d(F.pad(x, padding), weight, stride=stride, groups=groups)
        mean, variance = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        scale = state[f"{norm}.weight"] / (variance + 1e-3).sqrt()
        x = scale[:, None, None] * (x - mean[:, None, None]) + state[f"{norm}.bias"][:, None, None]
        return x.clamp(0, 6) if relu else x

    x = layer(x, "_conv_stem", "_bn0", stride=2)
    outputs = []
    for index, (_, stride, expansion, inputs, channels) in enumerate(published_blocks()):
        block = f"_blocks.{index}"
        y = layer(x, f"{block}._expand_conv", f"{block}._bn0") if expansion > 1 else x
        y = layer(y, f"{block}._depthwise_conv", f"{block}._bn1", stride)
        y = layer(y, f"{block}._project_conv", f"{block}._bn2", relu=False)
        x = x + y if stride == 1 and inputs == channels else y
        outputs.append(x)
    return [outputs[index] for index in (2, 4, 10, 15)]


def test_parameter_count_is_the_published_one_without_the_head() -> None:
    head = 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert sum(parameter.numel() for parameter in lite0().parameters()) + head == 4_652_008


@pytest.mark.slow
def test_levels_match_the_published_description() -> None:
    state, backbone = published_state(), lite0().double().eval()
    report = load_pretrained(backbone, state)
    assert report.layout == "efficientnet-lite-pytorch"
    assert report.missing == {}
    assert {key.split(".")[0] for key in report.unused} == {"_conv_head", "_bn1", "_fc"}
    generator = torch.Generator().manual_seed(1)
    # Even at every stride, odd at every stride, and mixed.
    for size in ((64, 32), (33, 65), (46, 1)):
        images = torch.randn(1, 3, *size, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            levels, expected = backbone(images), reference_levels(state, images)
        assert [tuple(level.shape[1:]) for level in levels] == [
            (channels, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
            for channels, stride in zip((24, 40, 112, 320), (4, 8, 16, 32), strict=True)
        ]
        for level, reference in zip(levels, expected, strict=True):
            torch.testing.assert_close(level, reference, rtol=1e-9, atol=1e-9)


def test_published_names_are_found_after_a_prefix() -> None:
    state = {f"module.encoder.{key}": value for key, value in published_state().items()}
    report = load_pretrained(lite0(), {"state_dict": state})
    assert report.missing == {}
    assert report.loaded["stem.conv.weight"] == "module.encoder._conv_stem.weight"


def test_fenet_converts_images_to_the_normalization_of_the_published_weights() -> None:
    """TensorFlow's EfficientNet-Lite subtracts 127 from pixel values and divides by 128."""
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(256, (1, 3, 40, 32), generator=generator).double()
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    model = FENet(FENetConfig("efficientnet-lite0", channels=4, ppm=False), 3).double().eval()
    with torch.no_grad():
        levels = model.features((pixels / 255 - mean) / std)["backbone"]
        expected = model.backbone((pixels - 127) / 128)
    for level, reference in zip(levels, expected, strict=True):
        torch.testing.assert_close(level, reference, rtol=1e-5, atol=1e-6)


def test_depthwise_convolutions_start_with_the_variance_of_a_single_channel() -> None:
    weight = lite0().get_parameter("blocks.11.depthwise.conv.weight")
    assert weight.shape == (672, 1, 5, 5)
    assert weight.std().item() == pytest.approx((2 / 25) ** 0.5, rel=0.02)
