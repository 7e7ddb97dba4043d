"""Measures the time and peak memory of a forward pass on this machine."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

_MIB = 2**20


def default_device() -> torch.device:
    """Return the GPU if there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Latency:
    """The time and memory of forward passes.

    milliseconds: of each pass. memory_mib: peak memory in MiB, of weights and features: allocated
    memory on a GPU, growth of the process on a CPU; None if it cannot be measured (not Linux with
    glibc).
    """

    milliseconds: tuple[float, ...]
    memory_mib: float | None

    @property
    def median(self) -> float:
        """The median time in milliseconds."""
        return statistics.median(self.milliseconds)

    def percentile(self, percent: int) -> float:
        """Return the smallest time that this share of the passes, in percent, does not exceed."""
        ordered = sorted(self.milliseconds)
        return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]


def measure_latency(
    build: Callable[[], nn.Module], height: int, width: int, device: torch.device
) -> tuple[float, float | None]:
    """Return the median milliseconds of a forward pass in evaluation mode, and peak memory in MiB.

    Uses one random image, float32, channels-last. See `Latency.memory_mib`.
    """

    def prepare() -> Callable[[], object]:
        model = build().eval().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        image = torch.randn(1, 3, height, width, device=device)
        image = image.contiguous(memory_format=torch.channels_last)
        return lambda: model(image)

    latency = time_passes(prepare, device)
    return latency.median, latency.memory_mib


def time_passes(prepare: Callable[[], Callable[[], object]], device: torch.device) -> Latency:
    """Time forward passes in inference mode, for about two seconds: at least 3 and at most 100,
    after two that are not counted.

    prepare: moves the model and its input to the device and returns the forward pass.
    """
    before = _start_peak(device)
    run = prepare()
    with torch.inference_mode():
        _timed(run, device)
        seconds = _timed(run, device)
        passes = min(max(round(2 / seconds), 3), 100)
        times = tuple(1000 * _timed(run, device) for _ in range(passes))
    peak = _peak(device)
    return Latency(times, None if before is None or peak is None else (peak - before) / _MIB)


def _timed(run: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of one forward pass."""
    _synchronize(device)
    start = time.perf_counter()
    run()
    _synchronize(device)
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
