"""The peak memory of a training, as `memory_gib` records it."""

import torch

from pipelines.machine import peak_resident_gib


def peak_memory_gib(device: torch.device) -> float:
    """Return the peak memory in GiB of this process: on CUDA, what torch has reserved on `device`,
    otherwise the resident memory.

    What is reserved decides whether a training fits on a GPU; it exceeds what tensors occupy.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 2**30
    return peak_resident_gib()
