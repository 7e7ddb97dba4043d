"""Worker processes that are forked from a server process with the modules already imported."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as torch_multiprocessing

FORKED = multiprocessing.get_context("forkserver")
# The first imports torch and kornia; an optimizer imports the second, and pyarrow the third.
FORKED.set_forkserver_preload(["pipelines.run_training", "torch._dynamo", "pandas"])


def run_workers(function: Callable[..., None], arguments: tuple[Any, ...], count: int) -> None:
    """Run `function(rank, *arguments)` in `count` processes; raise the first error."""
    torch_multiprocessing.start_processes(
        _run_worker, (function, arguments), nprocs=count, start_method="forkserver"
    )


def _run_worker(rank: int, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    function(rank, *arguments)
    # The network is freed first, for the reason in `pipelines.run_training.worker_group`.
    if dist.is_initialized():
        dist.destroy_process_group()


def join_group(rank: int, size: int, directory: Path) -> None:
    """Make this process a rank of a group, which meets in a file in `directory`."""
    dist.init_process_group(
        "gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=size
    )
