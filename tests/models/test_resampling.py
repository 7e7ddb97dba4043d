"""Resizing and pooling: results of torch, gradients against torch's in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from models.resampling import average_pool, resize

Size = tuple[int, int]
SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def torch_resize(features: Tensor, size: Size) -> Tensor:
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)


def resize_to(features: Tensor, size: Size) -> Tensor:
    return resize(features, torch.empty(1, 1, *size))


def features_of(size: Size, dtype: torch.dtype, channels_last: bool) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, *size, dtype=torch.float64, generator=generator).to(dtype)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return features.contiguous(memory_format=memory_format)


@settings(max_examples=150)
@given(
    SIZES,
    SIZES,
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    st.booleans(),
)
def test_resizing_matches_torch(
    size: Size, resized: Size, dtype: torch.dtype, channels_last: bool
) -> None:
    check(torch_resize, resize_to, size, resized, dtype, channels_last)


@settings(max_examples=60)
@given(SIZES, st.integers(1, 7), st.sampled_from([torch.float64, torch.float32]), st.booleans())
def test_pooling_matches_torch(
    size: Size, bins: int, dtype: torch.dtype, channels_last: bool
) -> None:
    check(
        F.adaptive_avg_pool2d,
        lambda features, grid: average_pool(features, grid[0]),
        size,
        (bins, bins),
        dtype,
        channels_last,
    )


def check(
    reference: Callable[[Tensor, Size], Tensor],
    function: Callable[[Tensor, Size], Tensor],
    size: Size,
    resized: Size,
    dtype: torch.dtype,
    channels_last: bool,
) -> None:
    """Check values bit for bit, and the gradient against the reference's in float64."""
    features = features_of(size, dtype, channels_last).requires_grad_()
    result = function(features, resized)
    assert torch.equal(result, reference(features, resized))
    with torch.no_grad():
        assert torch.equal(function(features, resized), result)
    grad = features_of(resized, dtype, channels_last)
    exact = features.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(reference(exact, resized), exact, grad.double())
    (actual,) = torch.autograd.grad(result, features, grad)
    assert actual.dtype == dtype
    tolerance = {torch.float64: 1e-13, torch.float32: 1e-6, torch.bfloat16: 2e-2}[dtype]
    limit = tolerance * float(expected.abs().max()) + 1e-12
    assert float((actual.double() - expected).abs().max()) <= limit


def test_resize_returns_input_of_the_target_size() -> None:
    features = torch.randn(1, 2, 3, 4)
    assert resize(features, torch.empty(1, 9, 3, 4)) is features


@pytest.mark.parametrize("channels_last", [True, False])
def test_gradient_has_the_memory_format_of_the_features(channels_last: bool) -> None:
    features = features_of((4, 6), torch.float32, channels_last).requires_grad_()
    joined = torch.cat([resize_to(features, (8, 9)), resize_to(features * 2, (8, 9))], dim=1)
    weights = torch.randn(1, 6, 1, 1)
    joined.mul(weights).sum().backward()
    assert features.grad is not None
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    assert features.grad.is_contiguous(memory_format=memory_format)


def test_gradient_is_differentiable() -> None:
    features = features_of((3, 5), torch.float64, False).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: resize_to(x, (7, 4)), features)
    assert torch.autograd.gradgradcheck(lambda x: resize_to(x, (7, 4)), features)


class CudaAutocast(TorchFunctionMode):
    """Applies CUDA's autocast rule for interpolation to tensors on the CPU."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is F.interpolate and torch.is_autocast_enabled("cpu"):
            args = (args[0].float(), *args[1:])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("requires_grad", [True, False])
def test_autocast_does_not_change_the_dtype(requires_grad: bool) -> None:
    features = features_of((4, 4), torch.bfloat16, True).requires_grad_(requires_grad)
    with CudaAutocast(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch_resize(features, (8, 8)).dtype == torch.float32
        assert resize_to(features, (8, 8)).dtype == torch.bfloat16
        assert average_pool(features, 2).dtype == torch.bfloat16


def test_weights_made_on_simulated_tensors_are_not_reused() -> None:
    with FakeTensorMode():
        features = torch.randn(1, 2, 11, 3, requires_grad=True)
        resize(features, torch.empty(1, 1, 5, 17)).sum().backward()
    features = torch.randn(1, 2, 11, 3, requires_grad=True)
    resize(features, torch.empty(1, 1, 5, 17)).sum().backward()
    assert features.grad is not None
    assert float(features.grad.sum()) == pytest.approx(2 * 5 * 17, rel=1e-5)
