"""Trains a trial of several workers: the process of its Tune function runs a Ray Train group."""

import asyncio
import math
from dataclasses import replace
from typing import Any

from ray import tune
from ray.train import (
    Checkpoint,
    FailureConfig,
    Result,
    RunConfig,
    ScalingConfig,
    UserCallback,
)
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2.api.exceptions import TrainingFailedError

from orchestrator.storage import local_copy
from orchestrator.training.checkpoints import (
    checkpoint_config,
    checkpoint_uri,
    checkpoints_to_resume,
)
from orchestrator.training.diagnosis import NodeLossDetector, diagnose
from orchestrator.training.elastic import CheckpointObserver, ElasticScalingPolicy
from orchestrator.training.failures import Failure, TrialError, check_trial
from orchestrator.training.group_worker import train_group_worker
from orchestrator.training.job import Job
from orchestrator.training.network_interface import ClusterNetworkConfig
from orchestrator.training.stop_file import StopFile
from orchestrator.training.worker import RUN, SCORE
from orchestrator.training.worker_logs import captured_output, output_file
from pipelines.network.checkpoint import read_history
from pipelines.network.file_names import STATE_FILE


class TrialTrainer(TorchTrainer):
    """A trainer whose controller runs in this process instead of a separate actor.

    The process of a Tune trial only waits for the controller, and each ends when the other does.
    This saves each trial the start of two processes: the controller's, and that of the queue
    through which an actor would send its reports.

    may_use_idle: see `ElasticScalingPolicy`.
    """

    def __init__(self, *arguments: Any, may_use_idle: bool = False, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._may_use_idle = may_use_idle

    def _create_default_callbacks(self) -> list[Any]:
        # A trial has none of Ray's data sets; a process would start at each attempt to serve them.
        callbacks = super()._create_default_callbacks()
        return [each for each in callbacks if not isinstance(each, DatasetsCallback)]

    def _initialize_and_run_controller(self, **settings: Any) -> Result:
        scaling = self.scaling_config
        if scaling.elasticity_enabled:
            checkpoints = CheckpointObserver()
            self.run_config.callbacks.append(checkpoints)
            settings["callbacks"] = self._create_default_callbacks()
            settings["scaling_policy"] = ElasticScalingPolicy(
                scaling, self._may_use_idle, checkpoints
            )
        controller = TrainController(**settings)
        try:
            asyncio.run(controller.run())
        finally:
            # Tune stops a trial by raising SystemExit in `tune.report`.
            if controller.get_worker_group() is not None:
                controller.get_worker_group().abort()
        return controller.get_result()


class ReportToTune(UserCallback):
    """Forwards the reports of rank 0 to Tune, which may stop the trial then.

    Raises WrongTrialError if a report came from another trial's worker.
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


def train_group(job: Job) -> dict[str, Any]:
    """Train one job to its last epoch with a group of workers.

    Returns its last and best checkpoint, or an empty dict if it was requested to stop. Raises
    TrialError, also if it ended early because one of its machines is about to be preempted.
    """
    stop = StopFile(job.task.stop_file)
    if stop.is_requested():
        return {}
    with captured_output(output_file(job.task.output, 0)):
        checkpoints_to_resume(job)  # Ray Train loads the list that this leaves
    detector = NodeLossDetector()
    try:
        result = _trainer(job, detector).fit()
    except TrainingFailedError as error:
        failure = diagnose(error)
        if failure.cause == "lost worker" and detector.lost_a_node():
            failure = replace(failure, cause="lost node")
        raise TrialError(failure) from None
    if not _is_complete(job, result.checkpoint):
        # Only a stop request or a preemption makes the workers end early.
        if not job.task.stop_file or stop.is_requested():
            return {}
        raise TrialError(Failure("preemption", "a machine of the trial is about to be preempted"))
    best, _ = max(
        result.best_checkpoints or [],
        key=lambda entry: entry[1].get(SCORE, -math.inf),
    )
    return {
        "last_checkpoint": checkpoint_uri(result.checkpoint, job),
        "best_checkpoint": checkpoint_uri(best, job),
    }


def _is_complete(job: Job, checkpoint: Checkpoint | None) -> bool:
    """Whether a training that ended without an error reached its last epoch."""
    if checkpoint is None:
        return False
    # Does not download weights and momentum.
    with local_copy(checkpoint_uri(checkpoint, job), only=[STATE_FILE]) as directory:
        history = read_history(directory)
    return len(history) == job.epochs


def _trainer(job: Job, detector: NodeLossDetector) -> TrialTrainer:
    elastic = job.most_workers > job.workers
    return TrialTrainer(
        train_group_worker,
        may_use_idle=job.may_use_idle,
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
            callbacks=[ReportToTune(), detector],
            failure_config=FailureConfig(max_failures=0),
            checkpoint_config=checkpoint_config(job),
        ),
    )
