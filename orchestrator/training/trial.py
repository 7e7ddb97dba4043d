"""One trial: a Ray Tune function that drives a Ray Train gang and says where its work lies."""

import asyncio
import logging
import math
from dataclasses import replace
from typing import Any

from ray import tune
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    FailureConfig,
    Result,
    RunConfig,
    ScalingConfig,
    UserCallback,
)
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2.api.exceptions import TrainingFailedError

from orchestrator.storage import local_copy
from orchestrator.training.diagnosis import NodeLossDetector, diagnose
from orchestrator.training.elastic import CheckpointObserver, ElasticScalingPolicy
from orchestrator.training.failures import Attempts, check_trial
from orchestrator.training.job import Job
from orchestrator.training.network_interface import ClusterNetworkConfig
from orchestrator.training.stop_file import StopFile
from orchestrator.training.worker import RUN, SCORE, train_worker
from pipelines.network.checkpoint import STATE_FILE, read_history

logger = logging.getLogger(__name__)


class TrialError(RuntimeError):
    """A trial that failed; the message is the cause as a user should read it."""


class TrialTrainer(TorchTrainer):
    """A trainer whose controller runs in this process, not in an actor of its own.

    The process of a Tune trial does nothing else but wait for it, and the two live and die together
    either way. It spares each trial the start of two processes: the controller's, and the one of
    the queue through which an actor would send its reports here.

    takes_all: whether a range of workers starts with what lies idle, see `ElasticScalingPolicy`.
    """

    def __init__(self, *arguments: Any, may_use_idle: bool = False, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._takes_all = may_use_idle

    def _initialize_and_run_controller(self, **settings: Any) -> Result:
        scaling = self.scaling_config
        if scaling.elasticity_enabled:
            at_checkpoint = CheckpointObserver()
            self.run_config.callbacks.append(at_checkpoint)
            settings["callbacks"] = self._create_default_callbacks()
            settings["scaling_policy"] = ElasticScalingPolicy(
                scaling, self._takes_all, at_checkpoint
            )
        controller = TrainController(**settings)
        try:
            asyncio.run(controller.run())
        finally:
            # Tune stops a trial by SystemExit within a report.
            if controller.get_worker_group() is not None:
                controller.get_worker_group().abort()
        return controller.get_result()


class ReportToTune(UserCallback):
    """Hands what rank 0 reported on to Tune, which may stop the trial there.

    Raises WrongTrialError where a report is that of another trial's worker.
    """

    def after_report(
        self,
        run_context: TrainRunContext,
        metrics: list[dict[str, Any]],
        checkpoint: Checkpoint | None,
    ) -> None:
        for reported in metrics:
            check_trial(run_context.run_config.name, reported[RUN])
        tune.report(metrics[0])


def run_trial(job: Job) -> dict[str, Any]:
    """Train one job to its end. Returns the paths of its last and best checkpoint; nothing where
    it was told to stop before its end.

    What may end better is tried again from the last checkpoint, see `training.diagnosis`; what
    stopped by itself, because a machine is about to be taken, goes on elsewhere. Raises TrialError.
    """
    attempts = Attempts(job.retries)
    nodes = NodeLossDetector()
    may_use_idle = job.may_use_idle
    stop = StopFile(job.task.stop_file)
    while True:
        if stop.is_asked():
            return {}
        try:
            result = _trainer(job, nodes, may_use_idle).fit()
            if _is_complete(job, result.checkpoint):
                break
            if not job.task.stop_file or stop.is_asked():
                return {}
            # Nothing else makes the workers end early.
            logger.warning("%s: a machine is being taken; going on from the checkpoint", job.name)
        except TrainingFailedError as error:
            failure = diagnose(error)
            if failure.cause == "lost worker" and nodes.lost_a_node():
                failure = replace(failure, cause="lost node")
            if not attempts.again(failure):
                lost = f"a worker was lost {attempts.counted} times, the last time: "
                raise TrialError((lost if failure.retried else "") + failure.message) from None
            logger.warning("%s: %s (%s), resuming", job.name, failure.cause, failure.message)
        may_use_idle = True  # by now the other trials have their place
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
    with local_copy(_place(checkpoint, job), only=[STATE_FILE]) as directory:
        history = read_history(directory)
    return len(history) == job.task.experiment.training.epochs


def _trainer(job: Job, nodes: NodeLossDetector, may_use_idle: bool) -> TrialTrainer:
    elastic = job.most_workers > job.workers
    return TrialTrainer(
        train_worker,
        may_use_idle=may_use_idle,
        train_loop_config={"task": job.task, "run": job.run_name},
        torch_config=ClusterNetworkConfig(),
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
