"""What a worker computes on, by name: times are only comparable on the same kind of device."""

import platform
from collections.abc import Iterable
from pathlib import Path

import torch

_CPU_INFO = Path("/proc/cpuinfo")


def worker_device(kind: str, share: float) -> str:
    """The device of a worker on this machine: `NVIDIA H200`, `NVIDIA H200, 0.5 of it`, `AMD EPYC
    7B13, 2 cores`.

    kind: `cpu` or `cuda`; share: cores or GPUs of the worker.
    """
    if kind == "cuda":
        return ", ".join([torch.cuda.get_device_name(), *_part_of_gpu(share)])
    return f"{_processor()}, {share:g} core{'' if share == 1 else 's'}"


def device_of_kind(devices: Iterable[str], kind: str, share: float) -> str:
    """The only one of `devices` that is such a share of such a GPU; empty for none or several.

    devices: as `worker_device` names them. kind: Ray's name (`L40S`), whose words are among those
    of the device's own (`NVIDIA L40S`); several devices may be of one kind, such as an H100 with
    one memory or another.
    """
    found = set()
    for device in devices:
        name, *part = device.split(", ")
        if part == _part_of_gpu(share) and _words(kind) in _words(name):
            found.add(device)
    return found.pop() if len(found) == 1 else ""


def _part_of_gpu(share: float) -> list[str]:
    return [f"{share:g} of it"] if share < 1 else []


def _words(name: str) -> str:
    return f" {name.replace('-', ' ')} "


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
