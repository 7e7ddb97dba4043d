"""One worker of a Ray Train group: its process, its checkpoints and its reports."""

import contextlib
import logging
import threading
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train.v2._internal.execution import context

from orchestrator.training.failures import check_trial
from orchestrator.training.worker import (
    UnwrittenCheckpoint,
    WorkerTask,
    prepare_process,
    train_task,
)
from orchestrator.training.worker_logs import captured_output, output_file


def prepare_group_worker(task: WorkerTask, run: str) -> torch.device:
    """Prepare this process for a task of the Ray Train run `run`. Return its device.

    Raises WrongTrialError if this worker was started for another run.
    """
    check_trial(ray.train.get_context().get_experiment_name(), run)
    prepare_process(task)
    return ray.train.torch.get_device()


def train_group_worker(config: dict[str, Any]) -> None:
    """Run `config["task"]` of the Ray Train run `config["run"]`.

    Resumes from Ray's checkpoint, if any; reports each epoch with a checkpoint; keeps the process's
    output in the worker's log.
    """
    task: WorkerTask = config["task"]
    run: str = config["run"]
    rank = ray.train.get_context().get_world_rank()
    for name in ("ray.train", context.__file__):  # they log every report in full
        logging.getLogger(name).setLevel(logging.WARNING)
    with (
        captured_output(output_file(task.output, rank)) as upload_output,
        contextlib.ExitStack() as stack,
    ):
        device = prepare_group_worker(task, run)
        checkpoint = ray.train.get_checkpoint()
        resume_from = Path(stack.enter_context(checkpoint.as_directory())) if checkpoint else None
        reports = ReportsToTrain()
        train_task(task, run, device, resume_from, reports, upload_output, _preemption_announced)


class ReportsToTrain:
    """Reports to Ray Train, which stores the checkpoints in a thread of its own; implements
    `worker.Reports`."""

    def __init__(self) -> None:
        self._written = threading.Event()
        self._written.set()

    def wait(self) -> None:
        self._written.wait()

    def send(self, metrics: dict[str, Any], checkpoint: UnwrittenCheckpoint | None) -> None:
        if checkpoint is None:
            ray.train.report(metrics)
            return
        self._written.clear()

        def write(local: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
            """Called in a thread of Ray; if it raises, Ray stops the training with the error."""
            try:
                checkpoint.write()
                storage = ray.train.get_context().get_storage()
                return storage.persist_current_checkpoint(local, name)
            finally:
                self._written.set()

        # Ray registers the checkpoint when `write` has returned, and then removes its directory.
        ray.train.report(
            metrics,
            checkpoint=ray.train.Checkpoint.from_directory(checkpoint.directory),
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=write,
        )


def _preemption_announced() -> bool:
    """Whether Ray has announced to this worker that a machine of the trial will be preempted.

    `ray.train.get_preemption_info` would synchronize the workers, which the loop does itself.
    """
    return context.get_train_context().preemption_context.preemption_info is not None
