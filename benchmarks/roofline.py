"""What a device can do at most, and what a part of a training step has to do at least.

Ceilings are measured: the best rate of matrix products and convolutions, and that of copying
memory. Needs are counted while the part runs once: the multiply-adds of its convolutions and matrix
products, and the bytes that must pass through memory if every pointwise operation were fused with
its neighbours. The larger of the two times is the part's roofline.
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

# Filling memory, and moving it between formats, is no work that has to be done.
_FREE = ("empty", "zeros", "ones", "full", "fill", "zero", "copy", "clone", "detach", "new_")


@dataclass(frozen=True)
class Need:
    """multiply_adds, and bytes read or written."""

    multiply_adds: int
    bytes: int


@dataclass(frozen=True)
class Ceiling:
    """multiply_adds, and bytes read or written, in a second at most."""

    multiply_adds: float
    bytes: float

    def seconds(self, need: Need) -> float:
        """The least time for a piece of work."""
        return max(need.multiply_adds / self.multiply_adds, need.bytes / self.bytes)


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of what operations read and write, pointwise ones and views apart."""

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


def need_of(work: Callable[[], Any]) -> Need:
    """Run `work` once and count."""
    traffic, counter = _Traffic(), FlopCounterMode(display=False)
    with counter, traffic:
        work()
    return Need(counter.get_total_flops() // 2, traffic.bytes)


def measure_ceiling(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> Ceiling:
    """Try matrix products and convolutions of several shapes, and copies; the best of each."""
    probes = [*_products(device, dtype), *_convolutions(device, dtype)]
    rate = max(count / _best_seconds(work, device, seconds) for count, work in probes)
    source = torch.ones(2**26 if device.type == "cpu" else 2**28, device=device)
    target = torch.empty_like(source)
    copied = _best_seconds(lambda: target.copy_(source), device, seconds)
    return Ceiling(rate, 2 * source.numel() * source.element_size() / copied)


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
    """The shortest of the runs that fit in `seconds`, at least three."""
    times: list[float] = []
    while len(times) < 4 or sum(times) < seconds:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _tensors(leaves: Iterable[Any]) -> list[Tensor]:
    """The tensors among `leaves`, each once."""
    found: list[Tensor] = []
    for leaf in leaves:
        if isinstance(leaf, Tensor) and not any(leaf is other for other in found):
            found.append(leaf)
    return found
