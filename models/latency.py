"""Measures the time and peak memory of a forward pass on this machine."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

_MIB = 2**20


def default_device() -> torch.device:
    """Return the GPU if there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def measure_latency(
    build: Callable[[], nn.Module], height: int, width: int, device: torch.device
) -> tuple[float, float | None]:
    """Return the median milliseconds of a forward pass in evaluation mode, and peak memory in MiB.

    Uses one random image, float32, channels-last. Memory includes weights and features: allocated
    memory on a GPU, growth of the process on a CPU (None unless on Linux with glibc).
    """
    before = _start_peak(device)
    model = build().eval().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = torch.randn(1, 3, height, width, device=device)
    image = image.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        _timed(model, image)
        seconds = _timed(model, image)
        # About two seconds per network, but at least 3 and at most 100 passes.
        repeats = min(max(round(2 / seconds), 3), 100)
        median = statistics.median(_timed(model, image) for _ in range(repeats))
    peak = _peak(device)
    memory = None if before is None or peak is None else (peak - before) / _MIB
    return 1000 * median, memory


def _timed(model: nn.Module, image: Tensor) -> float:
    """Return the seconds of one forward pass."""
    _synchronize(image.device)
    start = time.perf_counter()
    model(image)
    _synchronize(image.device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _start_peak(device: torch.device) -> int | None:
    """Reset the peak memory; return the bytes in use, or None if they cannot be measured."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    gc.collect()
    try:
        # Return freed memory of earlier networks to the system, then reset the high-water mark.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError, TypeError):
        return None
    return _high_water_mark()


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _high_water_mark()


def _high_water_mark() -> int | None:
    """Return the peak resident memory of this process in bytes, or None if unknown."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
