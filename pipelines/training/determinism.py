"""Which algorithms torch may use while it trains: the fastest, or deterministic ones only."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def training_algorithms(deterministic: bool) -> Iterator[None]:
    """Set torch's algorithms in this context.

    deterministic: use deterministic algorithms only; an operation without one raises RuntimeError.
        Otherwise, cuDNN measures its algorithms for each shape once and uses the fastest, which
        pays off because the shapes of training steps never change.
    """
    cudnn = torch.backends.cudnn
    memory: Any = torch.utils.deterministic  # without type annotations
    before = (
        cudnn.benchmark,
        cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        memory.fill_uninitialized_memory,
    )
    if deterministic:
        # torch requires this setting of cuBLAS, which reads it when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        # Only a program that reads memory before writing it needs this, and it takes time.
        memory.fill_uninitialized_memory = False
    cudnn.benchmark, cudnn.deterministic = not deterministic, deterministic
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic, enabled, warn_only, fill = before
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        memory.fill_uninitialized_memory = fill
