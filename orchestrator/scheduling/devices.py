"""Names the device of a worker, because times are only comparable on the same device."""

import platform
import re
from collections.abc import Iterable
from pathlib import Path

import torch

from pipelines.errors import UserError
from pipelines.gpu import gpu_problem

_CPU_INFO = Path("/proc/cpuinfo")

# Ray's names for GPUs of NVIDIA with a compute capability below 8.0, up to Turing.
_WITHOUT_BFLOAT16 = re.compile(
    r"(^|-)(K\d\d|M\d\d|P\d+|V100|T4G?|T\d{3,4}|GTX|TITAN|Quadro|RTX-20\d\d)(-|$)"
)


def worker_device(kind: str, share: float) -> str:
    """Return the name of a worker's device on this machine.

    Examples: `NVIDIA H200`; `NVIDIA H200, 0.5 of it`; `AMD EPYC 7B13, 2 cores`.

    kind: `cpu` or `cuda`.
    share: number of cores or GPUs of the worker.

    Raises UserError if torch cannot use the machine's GPUs.
    """
    if kind == "cuda":
        if problem := gpu_problem():
            raise UserError(problem)
        return ", ".join([torch.cuda.get_device_name(), *_part_of_gpu(share)])
    return f"{_processor()}, {share:g} core{'' if share == 1 else 's'}"


def device_of_kind(devices: Iterable[str], kind: str, share: float) -> str:
    """Return the only one of `devices` that is this share of a GPU of this type; empty if none or
    several match.

    devices: names that `worker_device` returned.
    kind: Ray's name of a GPU type, such as `L40S`. Its words are part of the device's name, such as
        `NVIDIA L40S`. Several devices may match, such as H100s with different memory.
    """
    matches = set()
    for device in devices:
        name, *part = device.split(", ")
        if part == _part_of_gpu(share) and _words(kind) in _words(name):
            matches.add(device)
    return matches.pop() if len(matches) == 1 else ""


def have_bfloat16(gpu_types: Iterable[str]) -> bool:
    """Whether all of these GPUs compute bfloat16 natively; unknown types do.

    gpu_types: Ray's names, such as `L40S`, `T4` or `GeForce-RTX-2080-Ti`.
    """
    return not any(_WITHOUT_BFLOAT16.search(gpu_type) for gpu_type in gpu_types)


def _part_of_gpu(share: float) -> list[str]:
    return [f"{share:g} of it"] if share < 1 else []


def _words(name: str) -> str:
    return f" {name.replace('-', ' ')} "


def _processor() -> str:
    """Return the CPU's model name, or what Python knows about it."""
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()
