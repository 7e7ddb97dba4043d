"""The group of workers that train one model together.

Everything works without a process group too: one process is a group of one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.errors import UserError
from pipelines.training.experiment import differences

_SHOWN = 5


@dataclass(frozen=True)
class WorkerGroup:
    """This process's place among the workers. `rank` is in [0, size)."""

    rank: int = 0
    size: int = 1

    @staticmethod
    def current() -> "WorkerGroup":
        """The initialised `torch.distributed` group, or a group of one."""
        if dist.is_available() and dist.is_initialized():
            return WorkerGroup(dist.get_rank(), dist.get_world_size())
        return WorkerGroup()

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of `tensor` (any shape, same on all workers) over the workers, detached."""
        tensor = tensor.detach().clone()
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def maximum(self, value: float) -> float:
        """The largest `value` any worker holds."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64)
        if dist.get_backend() == "nccl":
            tensor = tensor.float().cuda()
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return float(tensor)

    def gather(self, text: str) -> list[str]:
        """The `text` of every worker, by rank."""
        texts = [text] * self.size
        if self.size > 1:
            dist.all_gather_object(texts, text)
        return texts


class RankMismatchError(UserError, RuntimeError):
    """A worker of the group is about to do something else than the others; says what differs."""


def check_ranks_agree(group: WorkerGroup, own: Mapping[str, Any]) -> None:
    """Make sure that all workers hold the same `own`, which is as JSON has it.

    To be called on all of them. Raises RankMismatchError, on all of them, where one differs.
    """
    texts = group.gather(json.dumps(own, sort_keys=True))
    for rank, text in enumerate(texts):
        if text != texts[0]:
            found = differences(json.loads(texts[0]), json.loads(text))
            raise RankMismatchError(
                f"worker {rank} (here) is about to train something else than worker 0 (there): "
                f"{'; '.join(found[:_SHOWN])}"
            )
