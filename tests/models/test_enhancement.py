"""Equations (1) to (4) of the paper against plain loops in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models import FEM, FEMOptions, FENet, FENetConfig, register_fem
from models.config import Start
from models.enhancement import DetailFEM, Extractor, Flow, SemanticFEM
from models.layers import BasicBlock, ConvNormReLU


def randomize(module: nn.Module) -> nn.Module:
    """Randomize all values of `module`; return it in float64 and evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if value.is_floating_point() and not name.endswith("delta"):
                value.copy_(torch.rand(value.shape, generator=generator) - 0.4)
                if name.endswith("running_var"):
                    value.add_(0.5)
    return module.double().eval()


def random_map(channels: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(channels * height + width)
    return torch.randn(1, channels, height, width, generator=generator, dtype=torch.float64)


# Reference: sums over kernel taps, pixel by pixel, with the symbols of the paper.


def pixel(features: Tensor, y: int, x: int) -> Tensor:
    """Return the channels of one pixel, zero outside the map."""
    _, channels, height, width = features.shape
    if 0 <= y < height and 0 <= x < width:
        return features[0, :, y, x]
    return torch.zeros(channels, dtype=features.dtype)


def extract(features: Tensor, kernel: Tensor) -> Tensor:
    """Equation (2): `F - K * F`."""
    out = torch.empty_like(features)
    radius = kernel.shape[-1] // 2
    for y in range(features.shape[2]):
        for x in range(features.shape[3]):
            residual = torch.zeros(features.shape[1], dtype=features.dtype)
            for i in range(-radius, radius + 1):
                for j in range(-radius, radius + 1):
                    taps = kernel[:, 0, i + radius, j + radius]
                    residual += taps * pixel(features, y + i, x + j)
            out[0, :, y, x] = features[0, :, y, x] - residual
    return out


def resize_bilinear(features: Tensor, height: int, width: int) -> Tensor:
    """Bilinear interpolation between pixel centers."""
    _, channels, h, w = features.shape
    out = torch.empty(1, channels, height, width, dtype=features.dtype)
    for y in range(height):
        for x in range(width):
            v = min(max((y + 0.5) * h / height - 0.5, 0), h - 1)
            u = min(max((x + 0.5) * w / width - 0.5, 0), w - 1)
            top, left = math.floor(v), math.floor(u)
            bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
            y_weight, x_weight = v - top, u - left
            upper = (1 - x_weight) * pixel(features, top, left) + x_weight * pixel(
                features, top, right
            )
            lower = (1 - x_weight) * pixel(features, bottom, left) + x_weight * pixel(
                features, bottom, right
            )
            out[0, :, y, x] = (1 - y_weight) * upper + y_weight * lower
    return out


def convolve(features: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """3x3 convolution and batch norm in evaluation mode."""
    out = torch.empty(1, conv.out_channels, *features.shape[2:], dtype=features.dtype)
    for y in range(features.shape[2]):
        for x in range(features.shape[3]):
            value = torch.zeros(conv.out_channels, dtype=features.dtype)
            for i in range(3):
                for j in range(3):
                    value += conv.weight[:, :, i, j] @ pixel(features, y + i - 1, x + j - 1)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            normalized = (value - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
            out[0, :, y, x] = normalized * norm.weight + norm.bias
    return out


def conv_norm_relu(features: Tensor, layer: ConvNormReLU) -> Tensor:
    return convolve(features, layer.conv, layer.norm).clamp(min=0)


def phi(features: Tensor, layers: nn.Sequential) -> Tensor:
    first, block = layers
    assert isinstance(first, ConvNormReLU)
    assert isinstance(block, BasicBlock)
    features = conv_norm_relu(features, first)
    inner = convolve(features, block.conv1, block.bn1).clamp(min=0)
    return (convolve(inner, block.conv2, block.bn2) + features).clamp(min=0)


def enhance(fem: FEM, target: Tensor, auxiliary: Tensor) -> Tensor:
    """Equations (3) and (4)."""
    size = target.shape[2:]
    e_target = extract(target, fem.extract_target.kernel)
    e_auxiliary = resize_bilinear(extract(auxiliary, fem.extract_auxiliary.kernel), *size)
    message = phi(torch.cat([e_target, e_auxiliary], dim=1), fem.phi)
    added_back = target if isinstance(fem, DetailFEM) else resize_bilinear(auxiliary, *size)
    return conv_norm_relu(added_back + message, fem.theta)


@pytest.mark.parametrize("kind", [DetailFEM, SemanticFEM])
@pytest.mark.parametrize("sizes", [((4, 6), (8, 12)), ((8, 12), (4, 6)), ((5, 3), (9, 7))], ids=str)
def test_fem_matches_its_equations(
    kind: type[FEM], sizes: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    fem = randomize(kind(3, FEMOptions()))
    assert isinstance(fem, kind)
    target, auxiliary = (random_map(3, *size) for size in sizes)
    with torch.no_grad():
        torch.testing.assert_close(fem(target, auxiliary), enhance(fem, target, auxiliary))


@pytest.mark.parametrize("kind", [DetailFEM, SemanticFEM])
def test_flow_passes_enhanced_levels_on(kind: type[FEM]) -> None:
    flow = randomize(Flow(kind, 3, 2, FEMOptions()))
    assert isinstance(flow, Flow)
    levels = [random_map(2, 8, 8), random_map(2, 4, 4), random_map(2, 2, 2)]
    first, second = (fem for fem in flow.fems if isinstance(fem, FEM))
    with torch.no_grad():
        actual = flow(levels)
        if kind is DetailFEM:
            middle = enhance(first, levels[1], levels[0])
            expected = [levels[0], middle, enhance(second, levels[2], middle)]
        else:
            middle = enhance(first, levels[1], levels[2])
            expected = [enhance(second, levels[0], middle), middle, levels[2]]
    torch.testing.assert_close(actual, expected)


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.integers(1, 4),
    size=st.sampled_from([1, 3, 5, 7]),
    seed=st.integers(0, 2**31),
)
@pytest.mark.slow
def test_extractor_matches_the_difference_in_value_and_gradient(
    height: int, width: int, channels: int, size: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    extractor = Extractor(channels, size).double()
    kernel = torch.randn(extractor.kernel.shape, generator=generator, dtype=torch.float64)
    extractor.kernel.data.copy_(kernel)
    shape = (2, channels, height, width)
    features = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(shape, generator=generator, dtype=torch.float64)

    def difference() -> Tensor:
        padding = size // 2
        blurred = F.conv2d(features, extractor.kernel, padding=padding, groups=channels)
        return features - blurred

    actual, expected = extractor(features), difference()
    torch.testing.assert_close(actual, expected)
    inputs = (features, extractor.kernel)
    torch.testing.assert_close(
        torch.autograd.grad(actual, inputs, cotangent),
        torch.autograd.grad(expected, inputs, cotangent),
    )


@pytest.mark.parametrize(("start", "gain"), [("mean-blur", 0), ("low-pass", 1)])
def test_initial_extractor_response_to_a_constant(start: Start, gain: int) -> None:
    extractor = Extractor(2, 3, start)
    constant = torch.full((1, 2, 5, 5), 3.0)
    inner = extractor(constant)[:, :, 1:-1, 1:-1]
    torch.testing.assert_close(inner, torch.full_like(inner, 3.0 * gain), rtol=0, atol=1e-6)


def test_structure_start_applies_to_semantic_fems_only() -> None:
    options = FEMOptions(structure_start="low-pass")
    blur = torch.full((1, 1, 3, 3), 1 / 9)
    for extractor in (
        DetailFEM(1, options).extract_target,
        DetailFEM(1, options).extract_auxiliary,
    ):
        assert torch.equal(extractor.kernel, blur)
    semantic = SemanticFEM(1, options)
    for extractor in (semantic.extract_target, semantic.extract_auxiliary):
        assert torch.equal(extractor.kernel, extractor.delta - blur)


def test_even_extractor_kernels_are_rejected() -> None:
    with pytest.raises(ValueError, match="extractor_kernel is 2; it must be odd"):
        Extractor(4, 2)


@register_fem("gated")
class GatedFEM(FEM):
    """A custom FEM that multiplies the message by a gate computed from the target."""

    auxiliary = "finer"

    def __init__(self, channels: int, options: FEMOptions) -> None:
        super().__init__(channels, options)
        self.gate = nn.Conv2d(channels, 1, kernel_size=1)

    def forward(self, target: Tensor, auxiliary: Tensor) -> Tensor:
        gate = self.gate(target).sigmoid()
        return self.theta(target + gate * self.oper(target, auxiliary))


@pytest.mark.slow
def test_registered_fem_is_used_and_initialized_by_seed_and_name() -> None:
    config = FENetConfig("dfnet1", channels=4, flows=("gated", "semantic"))
    torch.manual_seed(3)
    model = FENet(config, 5, seed=1)
    torch.manual_seed(4)
    same_seed = FENet(config, 5, seed=1)
    gates = [name for name, _ in model.named_parameters() if name.endswith("gate.weight")]
    assert gates == [f"flows.gated.fems.{i}.gate.weight" for i in range(3)]
    for name, value in model.state_dict().items():
        assert torch.equal(value, same_seed.state_dict()[name])
    model(torch.randn(2, 3, 32, 64)).sum().backward()
    assert all(model.get_parameter(name).grad is not None for name in gates)


def test_registered_names_are_unique() -> None:
    with pytest.raises(ValueError, match=r"'detail' is already models\.enhancement\.DetailFEM"):
        register_fem("detail")(GatedFEM)
    assert register_fem("gated")(GatedFEM) is GatedFEM
