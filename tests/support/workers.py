"""Worker processes that are forked from a server process with the modules already imported."""

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as torch_multiprocessing

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["pipelines.run_training"])  # imports torch and kornia


def run_workers(function: Callable[..., None], arguments: tuple[Any, ...], count: int) -> None:
    """Run `function(rank, *arguments)` in `count` processes; raise the first error."""
    torch_multiprocessing.start_processes(
        function, arguments, nprocs=count, start_method="forkserver"
    )
