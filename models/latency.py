"""Milliseconds and memory of one forward pass, on the device at hand."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

_MIB = 2**20


def device_at_hand() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def measure_latency(
    build: Callable[[], nn.Module], height: int, width: int, device: torch.device
) -> tuple[float, float | None]:
    """Median milliseconds of a forward pass in evaluation, and peak memory in MiB.

    One image, float32, channels-last. Memory is that of weights and features together: what the
    allocator handed out on a GPU; on a CPU what the process grew by, where the system tells
    (Linux with glibc), else None.
    """
    before = _start_peak(device)
    model = build().eval().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = torch.randn(1, 3, height, width, device=device)
    image = image.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        _timed(model, image)
        once = _timed(model, image)
        # About two seconds a network, within reason on both ends.
        repeats = min(max(round(2 / once), 3), 100)
        median = statistics.median(_timed(model, image) for _ in range(repeats))
    peak = _peak(device)
    memory = None if before is None or peak is None else (peak - before) / _MIB
    return 1000 * median, memory


def _timed(model: nn.Module, image: Tensor) -> float:
    """Seconds of one pass."""
    _wait(image.device)
    start = time.perf_counter()
    model(image)
    _wait(image.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _start_peak(device: torch.device) -> int | None:
    """Begin to watch the peak; bytes in use now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    gc.collect()
    try:
        # Give back what earlier networks left in the heap, then set the high-water mark to now.
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
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
