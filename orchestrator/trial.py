"""One trial: a Ray Tune function that drives a Ray Train gang and says where its work lies."""

import logging
import math
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayError
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.exceptions import RayTrainError
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from ray.tune.integration.ray_train import TuneReportCallback
from torch.distributed import DistError

from orchestrator.worker import SCORE, WorkerTask, train_worker

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A trial that is to be trained: everything the cluster needs to know about it.

    run_name: Train's name of the run, the key under which an interrupted one is resumed.
    task: what each of the `workers` is told; resources: what is reserved for each.
    """

    name: str
    run_name: str
    task: WorkerTask
    workers: int
    resources: dict[str, float]
    use_gpu: bool
    retries: int
    keep_checkpoints: int
    storage: str


class TrialError(RuntimeError):
    """A trial that failed; the message is the cause as a user should read it."""


def run_trial(job: Job) -> dict[str, Any]:
    """Train one job to its end. Returns the paths of its last and best checkpoint.

    A lost worker or node is retried from the last checkpoint. An error of the training itself
    is not: it would come again. Raises TrialError.
    """
    failures = 0
    while True:
        try:
            result = _trainer(job).fit()
            break
        except TrainingFailedError as error:
            own = _own_errors(error)
            if own:
                raise TrialError(_sentence(own[0])) from None
            if failures >= job.retries:
                first_line = str(error).strip().splitlines()[0]
                raise TrialError(
                    f"a worker was lost {failures + 1} times, the last time: {first_line}"
                ) from None
            failures += 1
            logger.warning("%s: a worker was lost, restart %d", job.name, failures)
    best, _ = max(
        result.best_checkpoints or [],
        key=lambda entry: entry[1].get(SCORE, -math.inf),
    )
    return {"last_checkpoint": _place(result.checkpoint, job), "best_checkpoint": _place(best, job)}


def _place(checkpoint: Checkpoint, job: Job) -> str:
    """Where a checkpoint lies: a local path, or a URI like that of the job's storage."""
    scheme, mark, rest = job.storage.partition("://")
    if not mark:
        return str(checkpoint.path)
    _, mark, query = rest.partition("?")
    return f"{scheme}://{checkpoint.path}{mark}{query}"


def _trainer(job: Job) -> TorchTrainer:
    return TorchTrainer(
        train_worker,
        train_loop_config={"task": job.task},
        scaling_config=ScalingConfig(
            num_workers=job.workers, use_gpu=job.use_gpu, resources_per_worker=job.resources
        ),
        run_config=RunConfig(
            name=job.run_name,
            storage_path=job.storage,
            callbacks=[TuneReportCallback()],
            failure_config=FailureConfig(max_failures=0),
            checkpoint_config=CheckpointConfig(
                num_to_keep=job.keep_checkpoints,
                checkpoint_score_attribute=SCORE,
                checkpoint_score_order="max",
            ),
        ),
    )


def _own_errors(error: TrainingFailedError) -> list[BaseException]:
    """What the training itself raised; nothing where workers or nodes were lost."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else [error]
    causes = [getattr(failure, "_base_exc", failure) for failure in failures]
    return [cause for cause in causes if not _is_loss(cause)]


def _is_loss(cause: BaseException) -> bool:
    """Whether an error says that a process went away, or only echoes that another one did."""
    if isinstance(cause, RayError | RayTrainError | DistError):
        return True
    return isinstance(cause, RuntimeError) and "gloo" in str(cause)


def _sentence(cause: BaseException) -> str:
    return f"{type(cause).__name__}: {cause}"
