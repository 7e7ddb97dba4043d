"""One worker of a trial: runs the training loop of `pipelines` and sends its reports."""

import importlib
import shutil
import socket
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from orchestrator.scheduling.devices import worker_device
from orchestrator.study.identity import code_version
from orchestrator.study.user_code import modules_of
from orchestrator.training.stop_file import StopFile
from orchestrator.training.worker_logs import log
from pipelines.data.dataset import open_dataset
from pipelines.data.node_cache import NodeCache
from pipelines.machine import reset_peak_memory
from pipelines.network.checkpoint import Snapshot
from pipelines.training.experiment import Experiment

# The command needs this module, too, but not the libraries of a training, which take seconds.
if TYPE_CHECKING:
    from pipelines.training.loop import TrainingReport

RESULTS_DIRECTORY = "results"
SCORE = "checkpoint_score"
SECONDS = "seconds"
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


@dataclass(frozen=True)
class UnwrittenCheckpoint:
    """A checkpoint in memory, and the directory on this machine to write it to, which may hold the
    result files already."""

    directory: Path
    snapshot: Snapshot

    def write(self) -> Path:
        """Write the checkpoint. Return its directory."""
        self.snapshot.write_into(self.directory)
        return self.directory


class Reports(Protocol):
    """Stores checkpoints and sends metrics to the command, while the training continues."""

    def wait(self) -> None:
        """Wait until the last checkpoint is written, so that memory holds at most one."""

    def send(self, metrics: dict[str, Any], checkpoint: UnwrittenCheckpoint | None) -> None:
        """Send the metrics of a report. checkpoint: of rank 0 only; removed from this machine
        after it was stored."""


def prepare_process(task: WorkerTask) -> None:
    """Prepare this process and thread for a task."""
    torch.set_num_threads(task.threads)
    for module in task.imports:
        importlib.import_module(module)
    reset_peak_memory()


def train_task(
    task: WorkerTask,
    run: str,
    device: torch.device,
    resume_from: Path | None,
    reports: Reports,
    upload_output: Callable[[], None],
    preemption_announced: Callable[[], bool],
) -> bool:
    """Train until the last epoch, a stop request or a preemption; return whether the last epoch was
    reached.

    run: name of the trial's run.
    resume_from: directory of a checkpoint; None to start from the beginning.
    upload_output: stores this worker's log.
    """
    from pipelines.training.loop import Training
    from pipelines.training.results import write_results

    # Of the sources in this process, because those of the command may have been edited since.
    code = code_version(modules_of(task.experiment, task.imports), task.experiment.libraries)
    cache = task.cache and task.cache.expanded()
    dataset = open_dataset(task.dataset, task.fingerprint)
    training = Training(task.experiment, dataset, device, cache=cache)
    hardware = worker_device(device.type, task.share)
    if resume_from is not None:
        training.restore(resume_from)
    epochs = training.duration.epochs
    group, position = training.group, training.position
    log(f"worker {group.rank} of {group.size} on {socket.gethostname()}, {device}")
    if resume_from is not None:
        log(f"resumed after epoch {position.epoch} of {epochs}, step {position.step}")
    if group.rank == 0:  # a worker that was killed while writing leaves its directory behind
        for leftover in Path(tempfile.gettempdir()).glob(f"{_snapshot_prefix(run)}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def send(report: "TrainingReport") -> None:
        metrics: dict[str, Any] = {SECONDS: report.seconds, **(report.metrics or {})}
        # Ray keeps the checkpoints with the best scores, and rejects one without a score.
        metrics[SCORE] = checkpoint_score(report.metrics, training.validation is not None)
        metrics |= {RUN: run, CODE: code, DEVICE: hardware, WORKERS: group.size}
        if group.rank != 0:
            upload_output()
            reports.send(metrics, None)
            return
        log(_summary(report, epochs))
        upload_output()
        reports.wait()
        directory = Path(tempfile.mkdtemp(prefix=_snapshot_prefix(run)))
        if report.metrics is not None and report.epoch == epochs:
            write_results(directory / RESULTS_DIRECTORY, training, report)
        reports.send(metrics, UnwrittenCheckpoint(directory, report.snapshot()))

    with StopFile(task.stop_file).watched() as stop_requested:
        training.run(
            send, task.checkpoint_steps, lambda: stop_requested() or preemption_announced()
        )
    if group.rank == 0:
        reports.wait()
    complete = training.position.epoch == epochs
    if not complete and preemption_announced():
        log("ended at a checkpoint: a machine of this trial is about to be preempted")
    return complete


def _snapshot_prefix(run: str) -> str:
    """Return the name prefix of the directories that hold a run's checkpoints until Ray has stored
    them."""
    return f"checkpoint-{run}-"


def _summary(report: "TrainingReport", epochs: int) -> str:
    """Format a report as one line of the worker's log."""
    if report.metrics is None:
        return f"checkpoint within epoch {report.epoch} of {epochs}"
    names = ("train/loss", "val/miou", "learning_rate", "images_per_second", "memory_gib")
    shown = [f"{name} {report.metrics[name]:.4g}" for name in names if name in report.metrics]
    return f"epoch {report.epoch} of {epochs}: {', '.join(shown)}"


def checkpoint_score(metrics: Mapping[str, float] | None, validated: bool) -> float:
    """Return the score by which Ray keeps the best checkpoints: the mIoU, or the epoch without
    validation. metrics: of the epoch that ends with the checkpoint; None within an epoch."""
    if metrics is not None and not validated:
        return float(metrics["epoch"])
    return (metrics or {}).get("val/miou", -1.0)
