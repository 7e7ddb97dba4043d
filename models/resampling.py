"""Bilinear resizing and average pooling with deterministic gradients.

Both are linear along rows and columns: for an image `x` and matrices `R` and `C` of the two axes,
the result is `R x C^T`, and the gradient with respect to `x` is `R^T g C`. torch's kernels compute
the results. Their gradient kernels on CUDA add atomically, so that sums depend on the order of the
threads; here, gradients are the two matrix products, the same on every device.

Neither operation follows autocast, which computes resizing in float32 on CUDA and in bfloat16 on
CPUs: results have the dtype of the input.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

# From an axis' size and its resized size to the matrix (resized, size), float64 on a device.
_Weights = Callable[[int, int, torch.device], Tensor]


def resize(features: Tensor, reference: Tensor) -> Tensor:
    """Resize `features` bilinearly, up or down, to the height and width of `reference`."""
    size = (reference.shape[-2], reference.shape[-1])
    # An exported network is for every size: the comparison must not become part of it.
    if not torch.compiler.is_exporting() and features.shape[-2:] == size:
        return features
    return _resample(features, size, _interpolate, bilinear_weights)


def average_pool(features: Tensor, bins: int) -> Tensor:
    """Average `features`, `(N, C, H, W)`, over a grid of `bins` x `bins` cells of equal size."""
    if torch.compiler.is_exporting():
        # torch would export its kernel for one size only.
        rows, columns = (
            pooling_weights(size, bins, features.device).to(features.dtype)
            for size in features.shape[-2:]
        )
        return rows @ features @ columns.t()
    return _resample(features, (bins, bins), F.adaptive_avg_pool2d, pooling_weights)


def bilinear_weights(size: int, resized: int, device: torch.device) -> Tensor:
    """Return the weights of bilinear resizing along an axis, float64 `(resized, size)`.

    Resized pixel u is centered at `(u + 1/2) size / resized - 1/2`, clamped to the axis; a pixel's
    weight is one minus its distance from there, and never negative.
    """
    pixels = torch.arange(resized, dtype=torch.float64, device=device)
    centers = ((pixels + 0.5) * (size / resized) - 0.5).clamp(0, size - 1)
    distances = centers[:, None] - torch.arange(size, dtype=torch.float64, device=device)
    return (1 - distances.abs()).clamp(min=0)


def pooling_weights(size: int, resized: int, device: torch.device) -> Tensor:
    """Return the weights of adaptive average pooling along an axis, float64 `(resized, size)`.

    Cell u averages the pixels from `floor(u size / resized)` to `ceil((u + 1) size / resized)`.
    """
    cells = torch.arange(resized, device=device)[:, None]
    starts, stops = cells * size // resized, -(-(cells + 1) * size // resized)
    pixels = torch.arange(size, device=device)
    inside = (pixels >= starts) & (pixels < stops)
    return inside.double() / (stops - starts)


def cached_weights(
    weights: _Weights, size: int, resized: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return the weights of an axis in `dtype`, computed on the device once per process.

    Tensors made in inference mode, or while torch compiles or simulates a computation, are not
    kept.
    """
    if (
        torch.compiler.is_compiling()
        or is_in_torch_dispatch_mode()
        or torch.is_inference_mode_enabled()
    ):
        return weights(size, resized, device).to(dtype)
    key = (weights, size, resized, dtype, device)
    if key not in _CACHE:
        _CACHE[key] = weights(size, resized, device).to(dtype)
    return _CACHE[key]


_CACHE: dict[tuple[_Weights, int, int, torch.dtype, torch.device], Tensor] = {}


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which operations on `device` keep the dtype of their input."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _interpolate(features: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)


def _resample(
    features: Tensor,
    size: tuple[int, int],
    forward: Callable[[Tensor, tuple[int, int]], Tensor],
    weights: _Weights,
) -> Tensor:
    if torch.is_grad_enabled() and features.requires_grad:
        resampled: Tensor = _Resampling.apply(features, size, forward, weights)
        return resampled
    with without_autocast(features.device):
        return forward(features, size)


class _Resampling(torch.autograd.Function):
    """Applies `forward(features, size)`; its gradient uses the `weights` of both axes."""

    @staticmethod
    def forward(
        features: Tensor,
        size: tuple[int, int],
        forward: Callable[[Tensor, tuple[int, int]], Tensor],
        weights: _Weights,
    ) -> Tensor:
        with without_autocast(features.device):
            return forward(features, size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        features, _, _, ctx.weights = inputs
        ctx.size = features.shape[-2:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        rows, columns = (
            cached_weights(
                ctx.weights, ctx.size[axis], grad.shape[axis + 2], grad.dtype, grad.device
            )
            for axis in range(2)
        )
        with without_autocast(grad.device):
            return _transposed(grad, rows, columns), None, None, None


def _transposed(grad: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return `rows^T grad columns` for each image and channel, in the memory format of `grad`."""
    batch, channels, height, width = grad.shape
    small_height, small_width = rows.shape[1], columns.shape[1]
    if grad.stride(1) == 1:  # channels last, also in a slice of the channels
        lines = grad.permute(0, 2, 3, 1).reshape(batch * height, width, channels)
        lines = columns.t() @ lines
        lines = rows.t() @ lines.view(batch, height, small_width * channels)
        return lines.view(batch, small_height, small_width, channels).permute(0, 3, 1, 2)
    planes = grad.reshape(batch * channels * height, width) @ columns
    planes = rows.t() @ planes.view(batch * channels, height, small_width)
    return planes.view(batch, channels, small_height, small_width)
