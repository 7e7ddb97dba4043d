"""The group of workers that train one model.

Without a process group, the process is a group of one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipelines.errors import UserError
from pipelines.network.batch_norm import SynchronizedBatchNorm
from pipelines.network.build import NetworkError
from pipelines.training.experiment import experiment_differences

_MAX_SHOWN = 5

# The argument that disables the exchange of buffers before each step; renamed in torch 2.13.
_SYNC_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)

# Relative difference of a buffer's sums on GPUs of different kinds, from rounding.
_ROUNDING = 1e-5


@dataclass(frozen=True)
class WorkerGroup:
    """The rank of this process, in [0, size), and the number of workers."""

    rank: int = 0
    size: int = 1

    @staticmethod
    def current() -> "WorkerGroup":
        """Return the initialized `torch.distributed` group, or a group of one."""
        if dist.is_available() and dist.is_initialized():
            return WorkerGroup(dist.get_rank(), dist.get_world_size())
        return WorkerGroup()

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over the workers of `tensor` (the same shape on all), detached."""
        tensor = tensor.detach().clone()
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def maximum(self, value: float) -> float:
        """Return the maximum of `value` over the workers."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64)
        if dist.get_backend() == "nccl":
            tensor = tensor.float().cuda()
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return float(tensor)

    def gather(self, text: str) -> list[str]:
        """Return the `text` of every worker, by rank."""
        texts = [text] * self.size
        if self.size > 1:
            dist.all_gather_object(texts, text)
        return texts


def keep_gradient_strides(model: nn.Module) -> None:
    """Give each gradient the strides of its parameter.

    Where a convolution's input has its channels last, its gradient may differ from its weight in
    the strides of dimensions of size 1. These address the same memory, but data-parallel training
    warns about them.
    """
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_contiguous() and 1 in parameter.shape:
            parameter.register_hook(partial(_with_strides, parameter.stride()))


def _with_strides(strides: tuple[int, ...], gradient: Tensor) -> Tensor:
    if gradient.is_contiguous():
        return gradient.as_strided(gradient.shape, strides)
    return gradient


def data_parallel(module: nn.Module, device: torch.device, has_unreached: bool) -> nn.Module:
    """Return the replica of a network on this worker, which averages gradients over the workers.

    has_unreached: whether some parameters get no gradient, on any worker; see
        `pipelines.network.build.unreached_parameters`. Finding these takes time in every step.
    """
    return DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        find_unused_parameters=has_unreached,
        # The workers' buffers are equal, see `check_buffers_agree`.
        **{_SYNC_BUFFERS: False},  # type: ignore[arg-type]
    )


def check_buffers_agree(group: WorkerGroup, model: nn.Module) -> None:
    """Check that the buffers of `model` are equal on all ranks, apart from rounding.

    All ranks must call this; it makes the host wait once. Synchronized batch norms are left out,
    because they compute their statistics over all workers.

    Raises:
        NetworkError: on all ranks, if a buffer differs.
    """
    buffers = {} if group.size == 1 else _unsynchronized_buffers(model)
    if not buffers:
        return
    digests = torch.stack([_digest(buffer) for buffer in buffers.values()])
    of_ranks = digests.new_zeros(group.size, *digests.shape)
    of_ranks[group.rank] = digests
    of_ranks = group.sum(of_ranks).cpu()
    differences = (of_ranks - of_ranks[0]).abs().amax(dim=0)
    allowed = _ROUNDING * of_ranks[:, :, 1].amax(dim=0)
    differ = (differences[:, :2] > allowed[:, None]).any(dim=1) | (differences[:, 2] > 0)
    for name, differs in zip(buffers, differ.tolist(), strict=True):
        if differs:
            raise NetworkError(
                f"the network's buffer {name} differs between workers, so each of them trains "
                "another network. Compute it from the images of all workers "
                "(torch.distributed.all_reduce), or use one worker"
            )


def _unsynchronized_buffers(model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{prefix}.{name}".lstrip("."): buffer
        for prefix, module in model.named_modules()
        if not isinstance(module, SynchronizedBatchNorm)
        for name, buffer in module.named_buffers(recurse=False)
    }


def _digest(buffer: Tensor) -> Tensor:
    """Return a weighted sum of a buffer, that of its magnitudes, and the number of values that are
    not finite, float64 `(3,)`."""
    dense = buffer.detach().to_dense() if buffer.is_sparse else buffer.detach()
    real = torch.view_as_real(dense) if dense.is_complex() else dense
    stored = real.flatten().double()
    values = stored.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    # Different weights, so that the order of the values counts.
    weights = torch.linspace(1, 2, len(values), dtype=values.dtype, device=values.device)
    sums = (values * weights).sum(), (values.abs() * weights).sum()
    return torch.stack([*sums, (~stored.isfinite()).sum().double()])


class RankMismatchError(UserError, RuntimeError):
    """A rank disagrees with rank 0; the message lists the differences."""


def check_ranks_agree(group: WorkerGroup, values: Mapping[str, Any]) -> None:
    """Check that all ranks hold the same JSON-like `values`. All ranks must call this.

    Raises:
        RankMismatchError: on all ranks, if one of them differs.
    """
    texts = group.gather(json.dumps(values, sort_keys=True))
    for rank, text in enumerate(texts):
        if text != texts[0]:
            differences = experiment_differences(
                json.loads(texts[0]), json.loads(text), labels=("rank 0", f"rank {rank}")
            )
            raise RankMismatchError(
                f"rank {rank} disagrees with rank 0 about what to train: "
                f"{'; '.join(differences[:_MAX_SHOWN])}"
            )
