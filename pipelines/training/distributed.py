"""The group of workers that train one model.

Without a process group, the process is a group of one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipelines.errors import UserError
from pipelines.training.experiment import experiment_differences

_MAX_SHOWN = 5


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
