"""What a worker computes on, by name: times are only comparable on the same kind of device."""

import platform
from pathlib import Path

import torch

_CPU_INFO = Path("/proc/cpuinfo")


def worker_device(kind: str, share: float) -> str:
    """The device of a worker on this machine: `NVIDIA H200`, `NVIDIA H200, 0.5 of it`, `AMD EPYC
    7B13, 2 cores`.

    kind: `cpu` or `cuda`; share: cores or GPUs of the worker.
    """
    if kind == "cuda":
        name = torch.cuda.get_device_name()
        return f"{name}, {share:g} of it" if share < 1 else name
    return f"{_processor()}, {share:g} core{'' if share == 1 else 's'}"


def _processor() -> str:
    """The CPU's model, as far as the system tells it."""
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
