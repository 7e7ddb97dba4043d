"""Trains a trial of one worker in the process of its Tune function.

Ray Train would start a second process for the worker. Tune keeps this one for the next trial.
"""

import contextlib
import functools
import gc
import logging
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.train.v2._internal.execution.preemption import PreemptionWatcher

from orchestrator.study.identity import source_paths
from orchestrator.study.user_code import modules_of
from orchestrator.training.checkpoints import (
    TrialCheckpoints,
    checkpoint_uri,
    checkpoints_to_resume,
)
from orchestrator.training.failures import EditedCodeError, PreemptedError
from orchestrator.training.job import Job
from orchestrator.training.worker import (
    UnwrittenCheckpoint,
    WorkerTask,
    prepare_process,
    train_task,
)
from orchestrator.training.worker_logs import captured_output, output_file
from pipelines.gpu import gpu_problem


def train_single_worker(job: Job) -> dict[str, Any]:
    """Train a job of one worker in this process and thread.

    Returns its last and best checkpoint, or an empty dict if it was requested to stop. Raises what
    the training raises, PreemptedError before a preemption, EditedCodeError if this process cannot
    train the current sources, and SystemExit if Tune stops the trial.
    """
    task = job.task
    logging.getLogger("ray.train").setLevel(logging.WARNING)  # it logs every list of checkpoints
    preemption_announced = _preemption_watcher()
    with (
        captured_output(output_file(task.output, 0)) as upload_output,
        contextlib.ExitStack() as stack,
    ):
        device = prepare_single_worker(job)
        checkpoints = checkpoints_to_resume(job)
        last = checkpoints.last()
        resume_from = Path(stack.enter_context(last.as_directory())) if last else None
        reports = ReportsToTune(checkpoints)
        try:
            complete = train_task(
                task,
                job.run_name,
                device,
                resume_from,
                reports,
                upload_output,
                lambda: reports.failed() or preemption_announced(),
            )
        except BaseException as error:
            # Tune answers one report at a time, and an error takes a report, too.
            reports.wait()
            if isinstance(error, SystemExit | KeyboardInterrupt):
                raise ExitRequestError(f"the training raised {error!r}") from error
            raise
    gc.collect()  # frees the memory of networks with reference cycles before the next trial
    if complete:
        last = checkpoints.last()
        assert last is not None, "a complete training has a checkpoint"
        return {
            "last_checkpoint": checkpoint_uri(last, job),
            "best_checkpoint": checkpoint_uri(checkpoints.best(), job),
        }
    if preemption_announced():
        raise PreemptedError("the machine is about to be preempted")
    return {}


def prepare_single_worker(job: Job) -> torch.device:
    """Prepare this process for a job of one worker. Return its device.

    A job with part of a GPU may use that part of the GPU's memory.

    Raises EditedCodeError if sources that this process has imported were edited since, and
    RuntimeError if torch cannot use the GPUs of this machine.
    """
    if job.use_gpu and (problem := gpu_problem()):
        raise RuntimeError(problem)
    check_sources(job.task)
    prepare_process(job.task)
    if (share := job.resources.get("GPU", 1.0)) < 1:
        torch.cuda.set_per_process_memory_fraction(share)
    return torch.device("cuda", 0) if job.use_gpu else torch.device("cpu")


class ExitRequestError(RuntimeError):
    """User code tried to end the process, for example by `sys.exit`."""


class ReportsToTune:
    """Stores checkpoints and reports to Tune in a thread, because Tune answers a report only after
    it has handled it; implements `worker.Reports`."""

    def __init__(self, checkpoints: TrialCheckpoints) -> None:
        self._checkpoints = checkpoints
        self._last: Future[None] = Future()
        self._last.set_result(None)

    def wait(self) -> None:
        """Raises the error of storing or reporting, and SystemExit if Tune stops the trial."""
        self._last.result()

    def failed(self) -> bool:
        """Whether `wait` would raise."""
        return self._last.done() and self._last.exception() is not None

    def send(self, metrics: dict[str, Any], checkpoint: UnwrittenCheckpoint | None) -> None:
        assert checkpoint is not None, "a single worker has rank 0"
        self._last = Future()
        threading.Thread(
            target=self._deliver, args=(metrics, checkpoint, self._last), daemon=True
        ).start()

    def _deliver(
        self, metrics: dict[str, Any], checkpoint: UnwrittenCheckpoint, done: Future[None]
    ) -> None:
        try:
            try:
                self._checkpoints.add(checkpoint.write(), metrics)
            finally:
                shutil.rmtree(checkpoint.directory, ignore_errors=True)
            tune.report(metrics)
        except BaseException as error:  # also SystemExit, by which Tune stops a trial
            done.set_exception(error)
        else:
            done.set_result(None)


# Modification times of sources, in nanoseconds, when this process first trained with them.
_modified: dict[Path, int] = {}


def check_sources(task: WorkerTask) -> None:
    """Raise EditedCodeError if sources of a task were edited after this process first used them.

    Python would train the old ones, but the recorded code version would be that of the new ones.
    """
    for _, path in source_paths(modules_of(task.experiment, task.imports)):
        modified = path.stat().st_mtime_ns
        if _modified.setdefault(path, modified) != modified:
            raise EditedCodeError(f"{path} was edited while the study runs")


@functools.cache  # one thread per process
def _preemption_watcher() -> Callable[[], bool]:
    """Return a function that tells whether Ray has announced the preemption of this machine."""
    if os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER") == "0":
        return lambda: False
    watcher = PreemptionWatcher({ray.get_runtime_context().get_node_id(): [0]})
    return lambda: watcher.get_latest_preemption_info() is not None
