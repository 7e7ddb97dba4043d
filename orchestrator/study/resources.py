"""What a trial runs on. It does not decide the result, so it is no part of a trial's identity."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from pipelines.data.node_cache import NodeCache

# A node with GPUs offers one of its kind; Ray reserves a sliver of it for a worker that must lie
# there (`ray.air.config.ScalingConfig`).
ACCELERATOR = "accelerator_type:"
_SLIVER = 0.001


def _number_or_range(value: Any) -> Any:
    """One message for what is neither, where pydantic would have one for each."""
    numbers = value if isinstance(value, list) and len(value) == 2 else [value]
    if any(type(number) is not int for number in numbers):
        raise ValueError(f"must be a whole number, or a range [low, high], received {value}")
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True)
class Resources:
    """The gang of workers that trains one trial.

    workers: processes that share a trial's batch (Ray Train, DDP); or a range, `[low, high]`: a
        trial starts once there is room for `low`, takes up to `high` where machines lie idle that
        no trial waits for, and goes on with fewer when one is lost. The batch is that of all
        workers together either way.
    cpus_per_worker: CPU cores of each; also the threads torch computes with.
    device: `auto` takes a GPU for each worker where the cluster has any.
    gpus_per_worker: GPUs of each where the device is a GPU; below 1, trials share one.
    concurrent_trials: at most so many gangs at once; as many as fit when left out.
    node_cache: directory on each node where decoded data is shared by all trials; None for none.
    node_cache_gib: most it may take; what the disk has when left out.
    checkpoint_steps: steps from one checkpoint within an epoch to the next; without it, checkpoints
        are written at the end of epochs only. Resuming is exact from either.
    keep_checkpoints: how many of a trial's best checkpoints on the validation split stay in the
        storage, besides the last.
    accelerator: the kind of GPU that every worker must lie on, by Ray's name for it (`H100`,
        `T4`, ...); any when left out. It counts where the device is a GPU.
    price_per_gpu_hour: what an hour of one GPU costs, in any currency, for estimates.
    retries: restarts from the last checkpoint after a worker's process is lost. A lost machine, or
        one that is taken, is never counted: the trial resumes however often that happens.
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
        """Workers without which a trial does not run: what it is placed by, and estimated with."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def most_workers(self) -> int:
        """Workers that a trial takes where there is room."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def _range(self) -> str:
        """The workers as a file says them."""
        return str(self.workers if isinstance(self.workers, int) else list(self.workers))

    def per_worker(self, device: Literal["cpu", "cuda"]) -> dict[str, float]:
        """What Ray must reserve for one worker on a device."""
        asked = {"CPU": self.cpus_per_worker}
        if device == "cuda":
            asked["GPU"] = self.gpus_per_worker
            if self.accelerator is not None:
                asked[ACCELERATOR + self.accelerator] = _SLIVER
        return asked

    def share(self, device: Literal["cpu", "cuda"]) -> float:
        """GPUs of one worker, or its cores."""
        return self.gpus_per_worker if device == "cuda" else self.cpus_per_worker

    def devices(self, device: Literal["cpu", "cuda"]) -> float:
        """GPUs of one trial, or its workers: what its hours are counted in."""
        return self.fewest_workers * (self.gpus_per_worker if device == "cuda" else 1)

    def cache(self) -> NodeCache | None:
        """The node cache. A home directory in its path is each worker's own."""
        if self.node_cache is None:
            return None
        capacity = None if self.node_cache_gib is None else int(self.node_cache_gib * 2**30)
        return NodeCache(Path(self.node_cache), capacity)
