"""One worker of a trial: the training loop of `pipelines` under Ray Train."""

import importlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import ray.train
import ray.train.torch
import torch

from pipelines.cache import NodeCache
from pipelines.dataset import open_dataset
from pipelines.experiment import Experiment
from pipelines.results import write_results
from pipelines.training import Report, Training

RESULTS_DIRECTORY = "results"
SCORE = "checkpoint_score"


@dataclass(frozen=True)
class WorkerTask:
    """What every worker of a trial is told. The precision of `experiment` is resolved.

    imports: modules that register what the experiment names. cache: of decoded data, on the node.
    checkpoint_steps: steps from one checkpoint within an epoch to the next; None for none.
    """

    experiment: Experiment
    dataset: str
    threads: int
    imports: tuple[str, ...]
    cache: NodeCache | None
    checkpoint_steps: int | None


def train_worker(config: dict[str, WorkerTask]) -> None:
    """Train, report each epoch with a checkpoint, and resume from one where Ray has one."""
    task = config["task"]
    torch.set_num_threads(task.threads)
    for module in task.imports:
        importlib.import_module(module)
    device = ray.train.torch.get_device()
    training = Training(task.experiment, open_dataset(task.dataset), device, cache=task.cache)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as directory:
            training.restore(Path(directory))

    def send(report: Report) -> None:
        metrics = dict(report.metrics or {})
        # Ray keeps the checkpoint that scores best, and refuses one without a score.
        metrics[SCORE] = metrics.get("val/miou", -1.0)
        if training.group.rank != 0:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as directory:
            report.save(Path(directory))
            if report.scores is not None and report.epoch == task.experiment.training.epochs:
                write_results(Path(directory) / RESULTS_DIRECTORY, training, report)
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(directory))

    training.run(send, report_steps=task.checkpoint_steps)
