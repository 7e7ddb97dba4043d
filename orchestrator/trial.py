"""One trial: a Ray Tune function that drives a Ray Train gang and says where its work lies."""

import logging
import math
from dataclasses import dataclass, replace
from typing import Any

from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError

from orchestrator.causes import diagnose
from orchestrator.failures import Attempts
from orchestrator.gang_nodes import GangNodes
from orchestrator.rendezvous import RaysNetwork
from orchestrator.stop_file import StopFile
from orchestrator.storage import on_this_machine
from orchestrator.trainer import ReportToTune, TrialTrainer
from orchestrator.worker import SCORE, WorkerTask, train_worker
from pipelines.checkpoint import STATE_FILE, read_history

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A trial that is to be trained: everything the cluster needs to know about it.

    run_name: Train's name of the run, the key under which an interrupted one is resumed.
    task: what each of the `workers` is told; resources: what is reserved for each. most_workers:
    more of them, where there is room. takes_room: whether it starts with all the room there is.
    expected_seconds: how long it is estimated to take; rank: lower ones are started first.
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
    most_workers: int = 0
    takes_room: bool = False
    expected_seconds: float = 0.0
    rank: int = 0


class TrialError(RuntimeError):
    """A trial that failed; the message is the cause as a user should read it."""


def run_trial(job: Job) -> dict[str, Any]:
    """Train one job to its end. Returns the paths of its last and best checkpoint; nothing where
    it was told to stop before its end.

    What may end better is tried again from the last checkpoint, see `orchestrator.causes`; what
    stopped by itself, because a machine is about to be taken, goes on elsewhere. Raises TrialError.
    """
    attempts = Attempts(job.retries)
    nodes = GangNodes()
    takes_all = job.takes_room
    stop = StopFile(job.task.stop_file)
    while True:
        if stop.is_asked():
            return {}
        try:
            result = _trainer(job, nodes, takes_all).fit()
            if _is_complete(job, result.checkpoint):
                break
            if not job.task.stop_file or stop.is_asked():
                return {}
            # Nothing else makes the workers end early.
            logger.warning("%s: a machine is being taken; going on from the checkpoint", job.name)
        except TrainingFailedError as error:
            failure = diagnose(error)
            if failure.cause == "lost worker" and nodes.one_is_lost():
                failure = replace(failure, cause="lost node")
            if not attempts.again(failure):
                lost = f"a worker was lost {attempts.counted} times, the last time: "
                raise TrialError((lost if failure.retried else "") + failure.message) from None
            logger.warning("%s: %s (%s), resuming", job.name, failure.cause, failure.message)
        takes_all = True  # by now the other trials have their place
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


def _is_complete(job: Job, checkpoint: Checkpoint | None) -> bool:
    """Whether a training that ended without an error reached its last epoch."""
    if checkpoint is None:
        return False
    # Weights and momentum stay where they are.
    with on_this_machine(_place(checkpoint, job), only=[STATE_FILE]) as directory:
        history = read_history(directory)
    return len(history) == job.task.experiment.training.epochs


def _trainer(job: Job, nodes: GangNodes, takes_all: bool) -> TrialTrainer:
    elastic = job.most_workers > job.workers
    return TrialTrainer(
        train_worker,
        takes_all=takes_all,
        train_loop_config={"task": job.task},
        torch_config=RaysNetwork(),
        scaling_config=ScalingConfig(
            num_workers=(job.workers, job.most_workers) if elastic else job.workers,
            use_gpu=job.use_gpu,
            resources_per_worker=job.resources,
        ),
        run_config=RunConfig(
            name=job.run_name,
            storage_path=job.storage,
            callbacks=[ReportToTune(), nodes],
            failure_config=FailureConfig(max_failures=0),
            checkpoint_config=CheckpointConfig(
                num_to_keep=job.keep_checkpoints,
                checkpoint_score_attribute=SCORE,
                checkpoint_score_order="max",
            ),
        ),
    )
