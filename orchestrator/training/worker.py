"""One worker of a trial: the training loop of `pipelines` under Ray Train."""

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
from orchestrator.training.worker_logs import captured_output, output_file, say
from pipelines.data.dataset import open_dataset
from pipelines.data.node_cache import NodeCache
from pipelines.training.experiment import Experiment
from pipelines.training.loop import Report, Training
from pipelines.training.results import write_results

RESULTS_DIRECTORY = "results"
SCORE = "checkpoint_score"
DEVICE = "device"
WORKERS = "workers"
RUN = "run"
CODE = "code"


@dataclass(frozen=True)
class WorkerTask:
    """What every worker of a trial is told. The precision of `experiment` is resolved.

    dataset: path or URI; fingerprint: of what was found there when the study was planned. imports:
    modules that register what the experiment names. cache: of decoded data, on the node.
    checkpoint_steps: steps from one checkpoint within an epoch to the next; None for none. share:
    of the device, see `worker_device`. output: path or URI of a directory for what they print; the
    first tells how the training goes, the others what befalls them. stop_file: path or URI; once it
    is there, the training writes a checkpoint and ends, as it does where a machine is about to be
    taken; empty for none.
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
    """Make this process ready for a task of Train's run `run`; the device it computes on.

    Raises WrongTrialError where this gang was started for another run.
    """
    check_trial(ray.train.get_context().get_experiment_name(), run)
    torch.set_num_threads(task.threads)
    for module in task.imports:
        importlib.import_module(module)
    return ray.train.torch.get_device()


def train_worker(config: dict[str, Any]) -> None:
    """Train the `task` of Train's run `run`, report each epoch with a checkpoint, and resume from
    one where Ray has one. What the process prints meanwhile is kept."""
    task: WorkerTask = config["task"]
    rank = ray.train.get_context().get_world_rank()
    for name in ("ray.train", context.__file__):  # they tell every report in full
        logging.getLogger(name).setLevel(logging.WARNING)
    with captured_output(output_file(task.output, rank)) as bring_output:
        _train(task, config["run"], prepare_worker(task, config["run"]), bring_output)


def _train(
    task: WorkerTask, run: str, device: torch.device, bring_output: Callable[[], None]
) -> None:
    # Of the sources as this process has them: others may lie where the command runs by now.
    code = code_version(modules_of(task.experiment, task.imports))
    cache = task.cache and task.cache.here()
    dataset = open_dataset(task.dataset, task.fingerprint)
    training = Training(task.experiment, dataset, device, cache=cache)
    hardware = worker_device(device.type, task.share)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as directory:
            training.restore(Path(directory))
    epochs = task.experiment.training.epochs
    group, position = training.group, training.position
    say(f"worker {group.rank} of {group.size} on {socket.gethostname()}, {device}")
    if checkpoint:
        say(f"resumed after epoch {position.epoch} of {epochs}, step {position.step}")

    if group.rank == 0:  # a worker that was killed while it wrote one has left it
        for left in Path(tempfile.gettempdir()).glob(f"{_snapshots(run)}*"):
            shutil.rmtree(left, ignore_errors=True)
    written = threading.Event()
    written.set()

    def send(report: Report) -> None:
        metrics: dict[str, Any] = dict(report.metrics or {})
        if group.rank == 0:
            say(_described(report, epochs))
        bring_output()
        # Ray keeps the checkpoint that scores best, and refuses one without a score.
        metrics[SCORE] = _score(report, training)
        metrics |= {RUN: run, CODE: code, DEVICE: hardware, WORKERS: group.size}
        if training.group.rank != 0:
            ray.train.report(metrics)
            return
        written.wait()  # one snapshot in memory, not two
        written.clear()
        directory = Path(tempfile.mkdtemp(prefix=_snapshots(run)))
        if report.metrics is not None and report.epoch == task.experiment.training.epochs:
            write_results(directory / RESULTS_DIRECTORY, training, report)
        snapshot = report.snapshot()

        def write(local: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
            """In a thread of Ray's; where it fails, Ray stops the training with the error."""
            try:
                snapshot.write_into(directory)
                storage = ray.train.get_context().get_storage()
                return storage.persist_current_checkpoint(local, name)
            finally:
                written.set()

        # Ray counts the checkpoint only once `write` has returned, and then removes `directory`.
        ray.train.report(
            metrics,
            checkpoint=ray.train.Checkpoint.from_directory(directory),
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=write,
        )

    asked = StopFile(task.stop_file).watch()
    training.run(send, task.checkpoint_steps, lambda: asked() or _is_being_taken())
    if training.position.epoch < epochs and _is_being_taken():
        say("ended at a checkpoint: a machine of this trial is about to be taken")


def _snapshots(run: str) -> str:
    """How the directories begin in which a run's checkpoints lie until Ray has stored them."""
    return f"checkpoint-{run}-"


def _is_being_taken() -> bool:
    """Whether a machine of the gang is about to be taken, of which Ray tells every worker.

    `ray.train.get_preemption_info` has all workers wait for each other, which the loop does itself.
    """
    return context.get_train_context().preemption_context.preemption_info is not None


def _described(report: Report, epochs: int) -> str:
    """A report as a line of the worker's output."""
    if report.metrics is None:
        return f"checkpoint within epoch {report.epoch} of {epochs}"
    names = ("train/loss", "val/miou", "learning_rate", "images_per_second", "memory_gib")
    shown = [f"{name} {report.metrics[name]:.4g}" for name in names if name in report.metrics]
    return f"epoch {report.epoch} of {epochs}: {', '.join(shown)}"


def _score(report: Report, training: Training) -> float:
    """What a checkpoint is kept for: its mIoU; being later, where nothing is ever validated."""
    if report.metrics is not None and training.validation is None:
        return float(report.epoch)
    return (report.metrics or {}).get("val/miou", -1.0)
