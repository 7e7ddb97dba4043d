"""Copies small tensors to the host without making it wait for the device's queue."""

import torch
from torch import Tensor


class HostCopy:
    """A copy of a tensor to the host that runs while the host queues more work on the device.

    On a GPU, the copy goes to pinned memory, and `values` waits only for the work that was queued
    before the copy.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._copy = tensor.detach()
        self._copied: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._copy.copy_(tensor.detach(), non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def values(self) -> list[float]:
        """Wait for the copy and return the elements of a one-dimensional tensor."""
        if self._copied is not None:
            self._copied.synchronize()
        return [float(value) for value in self._copy.tolist()]
