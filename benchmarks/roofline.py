"""The roofline model: the least time in which a device can execute a part of a training step.

A device's limits are measured: its best rate of multiply-adds in matrix products and convolutions,
and its rate of copying memory. A part's work is counted while it runs once: the multiply-adds of
its convolutions and matrix products, and the bytes of memory traffic if every pointwise operation
were fused with its neighbors. The larger of the two times is the part's roofline.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

# Operations that fill memory or change its format do not count as traffic.
_FREE = ("empty", "zeros", "ones", "full", "fill", "zero", "copy", "clone", "detach", "new_")


@dataclass(frozen=True)
class Work:
    """Multiply-adds, and bytes read or written."""

    multiply_adds: int
    bytes: int


@dataclass(frozen=True)
class DeviceLimits:
    """Most multiply-adds, and most bytes read or written, per second."""

    multiply_adds: float
    bytes: float

    def seconds(self, work: Work) -> float:
        """Return the least time for `work`."""
        return max(work.multiply_adds / self.multiply_adds, work.bytes / self.bytes)


class _Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write, except views and pointwise operations."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__.lstrip("_")
        free = func.is_view or torch.Tag.pointwise in func.tags or name.startswith(_FREE)
        if not free:
            read = _tensors(tree_leaves((args, kwargs)))
            written = [t for t in _tensors(tree_leaves(result)) if not any(t is r for r in read)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in read + written)
        return result


def count_work(part: Callable[[], Any]) -> Work:
    """Run `part` once and count its work."""
    traffic, counter = _Traffic(), FlopCounterMode(display=False)
    with counter, traffic:
        part()
    return Work(counter.get_total_flops() // 2, traffic.bytes)


def measure_limits(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> DeviceLimits:
    """Return the best rates over matrix products and convolutions of several shapes, and copies."""
    probes = [*_products(device, dtype), *_convolutions(device, dtype)]
    rate = max(count / _best_seconds(work, device, seconds) for count, work in probes)
    source = torch.ones(2**26 if device.type == "cpu" else 2**28, device=device)
    target = torch.empty_like(source)
    copied = _best_seconds(lambda: target.copy_(source), device, seconds)
    return DeviceLimits(rate, 2 * source.numel() * source.element_size() / copied)


def _products(
    device: torch.device, dtype: torch.dtype
) -> Iterable[tuple[int, Callable[[], Tensor]]]:
    for size in (1024, 2048) if device.type == "cpu" else (4096, 8192):
        matrix = torch.randn(size, size, device=device).to(dtype)
        yield size**3, lambda matrix=matrix: matrix @ matrix  # type: ignore[misc]


def _convolutions(
    device: torch.device, dtype: torch.dtype
) -> Iterable[tuple[int, Callable[[], Tensor]]]:
    batch, length = (4, 64) if device.type == "cpu" else (8, 256)
    for channels in (128, 256, 512):
        images = torch.randn(batch, channels, length, length, device=device).to(dtype)
        images = images.contiguous(memory_format=torch.channels_last)
        kernel = torch.randn(channels, channels, 3, 3, device=device).to(dtype)
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        count = batch * length**2 * channels**2 * 9
        yield count, lambda i=images, k=kernel: F.conv2d(i, k, padding=1)  # type: ignore[misc]


def _best_seconds(work: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """Return the shortest time of at least three runs that together take about `seconds`."""
    times: list[float] = []
    while len(times) < 4 or sum(times) < seconds:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _tensors(leaves: Iterable[Any]) -> list[Tensor]:
    """Return the distinct tensors among `leaves`."""
    tensors: list[Tensor] = []
    for leaf in leaves:
        if isinstance(leaf, Tensor) and not any(leaf is other for other in tensors):
            tensors.append(leaf)
    return tensors
