"""Processes that train together, each forked from one that has imported what they need."""

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as torch_multiprocessing

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["pipelines.train"])


def run_workers(function: Callable[..., None], arguments: tuple[Any, ...], count: int) -> None:
    """Run `function(rank, *arguments)` in `count` processes; raise what the first one raises."""
    torch_multiprocessing.start_processes(
        function, arguments, nprocs=count, start_method="forkserver"
    )
