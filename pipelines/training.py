"""The training loop, in plain torch.

It knows no scheduler and no tracker: it is handed the experiment, the data and a `report` callable,
and runs the same alone, under a test, and as one worker of a distributed group.
"""

import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models import PretrainedReport, SegmentationLoss, set_sample_keys
from pipelines.augmentation import Augmentation
from pipelines.batch_norm import synchronise_batch_norm
from pipelines.cache import NodeCache
from pipelines.checkpoint import restore_checkpoint, save_checkpoint
from pipelines.dataset import PreparedDataset, Samples
from pipelines.device import augment_ahead
from pipelines.distributed import WorkerGroup
from pipelines.evaluation import Scores, evaluate
from pipelines.experiment import Experiment
from pipelines.loading import EvaluationBatches, TrainingBatches
from pipelines.network import build_network, load_backbone_weights
from pipelines.optimization import build_optimizer, poly_learning_rate
from pipelines.precision import Numerics


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message says where."""


@dataclass(frozen=True)
class EpochReport:
    """What one finished epoch hands to `report`.

    epoch: counted from 1. metrics: name to value; mIoU and IoU in [0, 1]. scores: on the validation
    split, None in epochs without validation. save: writes the checkpoint into an empty directory;
    only rank 0 needs to call it.
    """

    epoch: int
    metrics: dict[str, float]
    scores: Scores | None
    save: Callable[[Path], None]


class Training:
    """One experiment in training, seen from one worker of the group."""

    def __init__(
        self,
        experiment: Experiment,
        dataset: PreparedDataset,
        device: torch.device,
        group: WorkerGroup | None = None,
        cache: NodeCache | None = None,
    ) -> None:
        """Build network, optimizer and data for this worker.

        cache: where decoded splits are shared with the other processes of this machine; without
        one, every sample is decoded each time.

        Raises DatasetError where a split is missing, NetworkError, WeightsError or PretrainedError
        where the network or its weights cannot be had, ValueError where the group has more workers
        than a batch has images.
        """
        self.experiment = experiment
        self.dataset = dataset
        self.cache = cache
        self.group = group or WorkerGroup.current()
        config, data = experiment.training, experiment.data
        self.numerics = Numerics.choose(device, config.precision, config.memory_format)
        self.classes = [entry.name for entry in dataset.manifest.classes]

        model = build_network(experiment.model, len(self.classes), experiment.seed)
        self.pretrained: PretrainedReport | None = None
        if config.backbone_weights is not None:
            self.pretrained = load_backbone_weights(model, config.backbone_weights)
        self.model = self.numerics.place(model)
        self.replica: nn.Module = self.model
        if self.group.size > 1:
            self.model = synchronise_batch_norm(self.model, device)
            self.replica = DistributedDataParallel(
                self.model,
                device_ids=[device] if device.type == "cuda" else None,
                broadcast_buffers=False,  # equal on all workers, because the statistics are
                gradient_as_bucket_view=True,
            )
        self.optimizer = build_optimizer(self.model, config)
        self.criterion = SegmentationLoss(config.loss).to(device)
        self.augmentation = Augmentation(data.augmentation, data.crop)
        self.batches = TrainingBatches(
            self.samples(data.train_split),
            data,
            seed=experiment.seed,
            global_batch=config.batch,
            rank=self.group.rank,
            world=self.group.size,
            pin=device.type == "cuda",
        )
        self.validation = EvaluationBatches(
            self.samples(data.validation_split),
            batch=experiment.evaluation.batch,
            rank=self.group.rank,
            world=self.group.size,
        )
        self.finished_epochs = 0
        self.history: list[dict[str, float]] = []

    def samples(self, split: str) -> Samples:
        """The samples of a split, from the node cache where there is one. Raises DatasetError."""
        if self.cache is None:
            return self.dataset.split(split)
        return self.cache.decoded(self.dataset, split)

    def restore(self, directory: Path) -> None:
        """Go on from a checkpoint. Raises CheckpointError where it does not fit."""
        state = restore_checkpoint(directory, self.model, self.optimizer)
        self.finished_epochs = int(state["epoch"])
        self.history = list(state["history"])

    def run(self, report: Callable[[EpochReport], None]) -> None:
        """Train the remaining epochs; call `report` on every worker after each one.

        Raises NonFiniteLossError, and DatasetError where a sample cannot be read.
        """
        config = self.experiment.training
        every = self.experiment.evaluation.every
        for epoch in range(self.finished_epochs, config.epochs):
            metrics = self._train_epoch(epoch)
            self.finished_epochs = epoch + 1
            scores = None
            if self.finished_epochs % every == 0 or self.finished_epochs == config.epochs:
                started = time.perf_counter()
                scores = evaluate(self.model, self.validation, len(self.classes), self.numerics)
                metrics |= _score_metrics(scores, self.classes)
                metrics["val/seconds"] = time.perf_counter() - started
                metrics["val/best_miou"] = max(
                    [scores.miou] + [entry.get("val/miou", 0.0) for entry in self.history]
                )
            metrics["memory_gib"] = self.group.maximum(_peak_memory_gib(self.numerics.device))
            metrics = {"epoch": self.finished_epochs, **metrics}
            self.history.append(metrics)
            report(EpochReport(self.finished_epochs, metrics, scores, self._save))

    def _save(self, directory: Path) -> None:
        save_checkpoint(
            directory,
            self.model,
            self.optimizer,
            {"epoch": self.finished_epochs, "history": self.history},
        )

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        config = self.experiment.training
        learning_rate = poly_learning_rate(config.learning_rate, epoch, config.epochs, config.power)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = learning_rate
        self.replica.train()
        device = self.numerics.device
        sums: Tensor | None = None
        names: tuple[str, ...] = ()
        started = time.perf_counter()
        batches = augment_ahead(self.batches.epoch(epoch), self.augmentation, device)
        for step, batch in enumerate(batches):
            set_sample_keys(self.model, batch.sample_keys)
            with self.numerics.autocast():
                output = self.replica(self.numerics.arrange(batch.images))
                terms = self.criterion(output, batch.labels)
            counts = self.group.sum(terms.counts)
            total, _ = self.criterion.total(terms.sums, counts)
            self.optimizer.zero_grad(set_to_none=True)
            # DDP averages the workers' gradients; the losses are shares of one global mean.
            (total * self.group.size).backward()
            # One transfer to the host a step, after the work of the step is queued.
            global_sums = self.group.sum(terms.sums)
            loss, per_term = self.criterion.total(global_sums, counts)
            if not math.isfinite(float(loss)):
                raise NonFiniteLossError(
                    f"loss {float(loss)} in epoch {epoch + 1}, step {step + 1} at learning rate "
                    f"{learning_rate:g}, samples {', '.join(batch.identifiers)}"
                )
            self.optimizer.step()
            names = terms.names
            epoch_terms = torch.cat([loss.reshape(1), per_term]).double()
            sums = epoch_terms if sums is None else sums + epoch_terms
        seconds = time.perf_counter() - started
        assert sums is not None, "an epoch has at least one step"
        means = (sums / len(self.batches)).tolist()
        metrics = {"train/loss": means[0]}
        if len(names) > 1:
            metrics |= {
                f"train/loss/{name}": value for name, value in zip(names, means[1:], strict=True)
            }
        metrics["learning_rate"] = learning_rate
        metrics["images_per_second"] = len(self.batches) * config.batch / seconds
        return metrics


def _score_metrics(scores: Scores, classes: list[str]) -> dict[str, float]:
    metrics: dict[str, float] = {
        "val/miou": scores.miou,
        "val/pixel_accuracy": scores.pixel_accuracy,
    }
    for name, value in zip(classes, scores.iou.tolist(), strict=True):
        if not math.isnan(value):
            metrics[f"val/iou/{name}"] = value
    return metrics


def _peak_memory_gib(device: torch.device) -> float:
    """Peak memory of the device on CUDA, of the process on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
