"""One worker of a trial: runs the training loop of `pipelines` under Ray Train."""

import importlib
import logging
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train.v2._internal.execution import context

from orchestrator.scheduling.devices import worker_device
from orchestrator.study.identity import code_version
from orchestrator.study.user_code import modules_of
from orchestrator.training.failures import check_trial
from orchestrator.training.stop_file import StopFile
from orchestrator.training.worker_logs import captured_output, log, output_file
from pipelines.data.dataset import open_dataset
from pipelines.data.node_cache import NodeCache
from pipelines.training.experiment import Experiment
from pipelines.training.loop import Training, TrainingReport
from pipelines.training.results import write_results

RESULTS_DIRECTORY = "results"
SCORE = "checkpoint_score"
DEVICE = "device"
WORKERS = "workers"
RUN = "run"
CODE = "code"


@dataclass(frozen=True)
class WorkerTask:
    """The task of every worker of a trial.

    experiment: with resolved precision.
    dataset: path or URI.
    fingerprint: of the data set, when the study was planned.
    threads: of each worker.
    imports: modules that register names used in the experiment.
    cache: on the node, of decoded data.
    checkpoint_steps: interval of checkpoints within an epoch, in steps; None for none.
    share: cores or GPUs of the worker, see `worker_device`.
    output: path or URI of the directory for the workers' logs. Rank 0 logs progress, the other
        ranks log errors.
    stop_file: path or URI, empty for none. When the file appears, the training writes a checkpoint
        and ends, as it does before a preemption.
    """

    experiment: Experiment
    dataset: str
    fingerprint: str
    threads: int
    imports: tuple[str, ...]
    cache: NodeCache | None
    checkpoint_steps: int | None
    share: float
    output: str
    stop_file: str


def prepare_worker(task: WorkerTask, run: str) -> torch.device:
    """Prepare this process for a task of the Ray Train run `run`. Return its device.

    Raises WrongTrialError if this worker was started for another run.
    """
    check_trial(ray.train.get_context().get_experiment_name(), run)
    torch.set_num_threads(task.threads)
    for module in task.imports:
        importlib.import_module(module)
    return ray.train.torch.get_device()


def train_worker(config: dict[str, Any]) -> None:
    """Run `config["task"]` of the Ray Train run `config["run"]`.

    Resumes from Ray's checkpoint, if any; reports each epoch with a checkpoint; keeps the process's
    output in the worker's log.
    """
    task: WorkerTask = config["task"]
    rank = ray.train.get_context().get_world_rank()
    for name in ("ray.train", context.__file__):  # they log every report in full
        logging.getLogger(name).setLevel(logging.WARNING)
    with captured_output(output_file(task.output, rank)) as upload_output:
        _train(task, config["run"], prepare_worker(task, config["run"]), upload_output)


def _train(
    task: WorkerTask, run: str, device: torch.device, upload_output: Callable[[], None]
) -> None:
    # Of the sources in this process, because those of the command may have been edited since.
    code = code_version(modules_of(task.experiment, task.imports))
    cache = task.cache and task.cache.expanded()
    dataset = open_dataset(task.dataset, task.fingerprint)
    training = Training(task.experiment, dataset, device, cache=cache)
    hardware = worker_device(device.type, task.share)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as directory:
            training.restore(Path(directory))
    epochs = task.experiment.training.epochs
    group, position = training.group, training.position
    log(f"worker {group.rank} of {group.size} on {socket.gethostname()}, {device}")
    if checkpoint:
        log(f"resumed after epoch {position.epoch} of {epochs}, step {position.step}")

    if group.rank == 0:  # a worker that was killed while writing leaves its directory behind
        for leftover in Path(tempfile.gettempdir()).glob(f"{_snapshot_prefix(run)}*"):
            shutil.rmtree(leftover, ignore_errors=True)
    written = threading.Event()
    written.set()

    def send(report: TrainingReport) -> None:
        metrics: dict[str, Any] = dict(report.metrics or {})
        if group.rank == 0:
            log(_summary(report, epochs))
        upload_output()
        # Ray keeps the checkpoints with the best scores, and rejects one without a score.
        metrics[SCORE] = _score(report, training)
        metrics |= {RUN: run, CODE: code, DEVICE: hardware, WORKERS: group.size}
        if training.group.rank != 0:
            ray.train.report(metrics)
            return
        written.wait()  # at most one snapshot in memory
        written.clear()
        directory = Path(tempfile.mkdtemp(prefix=_snapshot_prefix(run)))
        if report.metrics is not None and report.epoch == task.experiment.training.epochs:
            write_results(directory / RESULTS_DIRECTORY, training, report)
        snapshot = report.snapshot()

        def write(local: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
            """Called in a thread of Ray; if it raises, Ray stops the training with the error."""
            try:
                snapshot.write_into(directory)
                storage = ray.train.get_context().get_storage()
                return storage.persist_current_checkpoint(local, name)
            finally:
                written.set()

        # Ray registers the checkpoint when `write` has returned, and then removes `directory`.
        ray.train.report(
            metrics,
            checkpoint=ray.train.Checkpoint.from_directory(directory),
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=write,
        )

    stop_requested = StopFile(task.stop_file).watch()
    training.run(send, task.checkpoint_steps, lambda: stop_requested() or _preemption_announced())
    if training.position.epoch < epochs and _preemption_announced():
        log("ended at a checkpoint: a machine of this trial is about to be preempted")


def _snapshot_prefix(run: str) -> str:
    """Return the name prefix of the directories that hold a run's checkpoints until Ray has stored
    them."""
    return f"checkpoint-{run}-"


def _preemption_announced() -> bool:
    """Whether Ray has announced to this worker that a machine of the trial will be preempted.

    `ray.train.get_preemption_info` would synchronize the workers, which the loop does itself.
    """
    return context.get_train_context().preemption_context.preemption_info is not None


def _summary(report: TrainingReport, epochs: int) -> str:
    """Format a report as one line of the worker's log."""
    if report.metrics is None:
        return f"checkpoint within epoch {report.epoch} of {epochs}"
    names = ("train/loss", "val/miou", "learning_rate", "images_per_second", "memory_gib")
    shown = [f"{name} {report.metrics[name]:.4g}" for name in names if name in report.metrics]
    return f"epoch {report.epoch} of {epochs}: {', '.join(shown)}"


def _score(report: TrainingReport, training: Training) -> float:
    """Return the score by which Ray keeps the best checkpoints: the mIoU, or the epoch without
    validation."""
    if report.metrics is not None and training.validation is None:
        return float(report.epoch)
    return (report.metrics or {}).get("val/miou", -1.0)
