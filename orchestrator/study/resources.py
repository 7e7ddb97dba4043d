"""Resources of a trial. They do not change its result, so they are not part of its identity."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator

if TYPE_CHECKING:
    from pipelines.data.node_cache import NodeCache


# Each GPU node has 1 of this Ray resource for its kind of GPU; a worker that requires that kind
# reserves a small fraction of it (`ray.air.config.ScalingConfig`).
ACCELERATOR = "accelerator_type:"
_ACCELERATOR_SHARE = 0.001


def _number_or_range(value: Any) -> Any:
    """Raise one message for anything else; pydantic would give one per type."""
    numbers = value if isinstance(value, list) and len(value) == 2 else [value]
    if any(type(number) is not int for number in numbers):
        raise ValueError(f"must be a whole number, or a range [low, high], received {value}")
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True)
class Resources:
    """Resources of each trial. They do not change its result.

    workers: number of worker processes that share a trial's batch (Ray Train, DDP), or a range
        `[low, high]`. With a range, a trial starts as soon as `low` workers fit, grows to at most
        `high` on idle machines that no other trial waits for, and continues with fewer after losing
        a machine. The batch size counts all workers together in either case.
    cpus_per_worker: CPU cores of each worker: its number of torch threads, and of threads that load
        images.
    device: `auto` uses GPUs if the cluster has any, and CPUs otherwise.
    gpus_per_worker: GPUs of each worker; below 1, workers share a GPU and each may use that part
        of its memory. Ignored on CPUs.
    concurrent_trials: maximum number of trials that run at once; as many as fit by default.
    node_cache: directory on each node where all trials share decoded data; null disables the cache.
    node_cache_gib: maximum size of the node cache in GiB; limited by the free disk space only by
        default.
    checkpoint_steps: optimizer steps between checkpoints within an epoch. By default, checkpoints
        are written at the end of each epoch only. Resuming is exact from either.
    keep_checkpoints: number of a trial's best checkpoints on the validation split to keep, in
        addition to the last one.
    accelerator: kind of GPU that every worker must have, by Ray's name (`H100`, `T4`, ...); any by
        default. Ignored on CPUs.
    price_per_gpu_hour: price of one GPU-hour in any currency, for cost estimates; no costs are
        estimated by default.
    retries: restarts of a trial from its last checkpoint after a worker process is lost. Lost or
        preempted machines do not count: the trial resumes after each of them.
    """

    __pydantic_config__ = {"extra": "forbid"}

    workers: Annotated[int | tuple[int, int], BeforeValidator(_number_or_range)] = 1
    cpus_per_worker: float = 1.0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    gpus_per_worker: float = 1.0
    concurrent_trials: int | None = None
    node_cache: str | None = "~/.cache/segmentation-orchestrator"
    node_cache_gib: float | None = None
    checkpoint_steps: int | None = None
    keep_checkpoints: int = 1
    accelerator: str | None = None
    price_per_gpu_hour: float | None = None
    retries: int = 2

    def __post_init__(self) -> None:
        if self.fewest_workers < 1:
            raise ValueError(f"workers must be at least 1, received {self._range}")
        if self.fewest_workers > self.most_workers:
            raise ValueError(
                f"workers must be a range [low, high] with low at most high, received {self._range}"
            )
        if self.cpus_per_worker <= 0:
            raise ValueError(f"cpus_per_worker must be above 0, received {self.cpus_per_worker}")
        if self.gpus_per_worker <= 0:
            raise ValueError(f"gpus_per_worker must be above 0, received {self.gpus_per_worker}")
        if self.gpus_per_worker > 1 and self.gpus_per_worker != int(self.gpus_per_worker):
            raise ValueError(
                f"gpus_per_worker above 1 must be whole, received {self.gpus_per_worker}"
            )
        if self.concurrent_trials is not None and self.concurrent_trials < 1:
            raise ValueError(
                f"concurrent_trials must be at least 1, received {self.concurrent_trials}"
            )
        if self.node_cache_gib is not None and self.node_cache_gib <= 0:
            raise ValueError(f"node_cache_gib must be above 0, received {self.node_cache_gib}")
        if self.checkpoint_steps is not None and self.checkpoint_steps < 1:
            raise ValueError(
                f"checkpoint_steps must be at least 1, received {self.checkpoint_steps}"
            )
        if self.price_per_gpu_hour is not None and self.price_per_gpu_hour < 0:
            raise ValueError(
                f"price_per_gpu_hour must not be negative, received {self.price_per_gpu_hour}"
            )
        if self.keep_checkpoints < 1:
            raise ValueError(
                f"keep_checkpoints must be at least 1, received {self.keep_checkpoints}"
            )
        if self.retries < 0:
            raise ValueError(f"retries must not be negative, received {self.retries}")

    @property
    def fewest_workers(self) -> int:
        """Minimum number of workers; placement and estimates use it."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        """Maximum number of workers."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def _range(self) -> str:
        """The workers as written in a study file."""
        return str(self.workers if isinstance(self.workers, int) else list(self.workers))

    def per_worker(self, device: Literal["cpu", "cuda"]) -> dict[str, float]:
        """Return the Ray resources of one worker on a device."""
        resources = {"CPU": self.cpus_per_worker}
        if device == "cuda":
            resources["GPU"] = self.gpus_per_worker
            if self.accelerator is not None:
                resources[ACCELERATOR + self.accelerator] = _ACCELERATOR_SHARE
        return resources

    def needed(self) -> list[str]:
        """Return the names of the Ray resources that a machine for these workers should have."""
        return list(self.per_worker("cpu" if self.device == "cpu" else "cuda"))

    def share(self, device: Literal["cpu", "cuda"]) -> float:
        """Return the GPUs of one worker, or its CPU cores."""
        return self.gpus_per_worker if device == "cuda" else self.cpus_per_worker

    def devices(self, device: Literal["cpu", "cuda"]) -> float:
        """Return the GPUs of one trial, or its workers on CPUs; device-hours count these."""
        return self.fewest_workers * (self.gpus_per_worker if device == "cuda" else 1)

    def cache(self) -> "NodeCache | None":
        """Return the node cache; each worker expands `~` in its path itself."""
        if self.node_cache is None:
            return None
        from pipelines.data.node_cache import NodeCache  # needs pyarrow

        capacity = None if self.node_cache_gib is None else int(self.node_cache_gib * 2**30)
        return NodeCache(Path(self.node_cache), capacity)
