"""One trial: a Ray Tune function that drives a Ray Train gang and says where its work lies."""

import logging
import math
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayActorError
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from ray.tune.integration.ray_train import TuneReportCallback

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
            if not _is_lost_worker(error) or failures >= job.retries:
                raise TrialError(_cause(error)) from None
            failures += 1
            logger.warning("%s: a worker was lost, restart %d", job.name, failures)
    best, _ = max(
        result.best_checkpoints or [],
        key=lambda entry: entry[1].get(SCORE, -math.inf),
    )
    return {"last_checkpoint": result.checkpoint.path, "best_checkpoint": best.path}


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
                num_to_keep=1, checkpoint_score_attribute=SCORE, checkpoint_score_order="max"
            ),
        ),
    )


def _worker_errors(error: TrainingFailedError) -> list[BaseException]:
    if isinstance(error, WorkerGroupError):
        return [
            getattr(failure, "_base_exc", failure) for failure in error.worker_failures.values()
        ]
    return [error]


def _is_lost_worker(error: TrainingFailedError) -> bool:
    """Whether a process or node went away, as opposed to an error raised by the training."""
    return any(isinstance(cause, RayActorError) for cause in _worker_errors(error))


def _cause(error: TrainingFailedError) -> str:
    """The first error that is not just the echo of another worker's."""
    causes = _worker_errors(error)
    own = [cause for cause in causes if "Connection closed by peer" not in str(cause)]
    cause = (own or causes)[0]
    return f"{type(cause).__name__}: {cause}"
