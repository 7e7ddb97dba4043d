"""The training loop, in plain torch.

It knows no scheduler and no tracker: it is handed the experiment, the data and a `report` callable,
and runs the same alone, under a test, and as one worker of a distributed group.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models import PretrainedReport, SegmentationLoss, set_sample_keys
from pipelines.data.augmentation import Augmentation
from pipelines.data.dataset import PreparedDataset, Samples
from pipelines.data.device_batches import TrainingBatch, prefetch_to_device
from pipelines.data.loading import EvaluationBatches, TrainingBatches
from pipelines.data.node_cache import NodeCache
from pipelines.data.randomness import combine
from pipelines.errors import UserError
from pipelines.evaluation.evaluate import Scores, evaluate
from pipelines.machine import peak_resident_gib
from pipelines.network.batch_norm import synchronize_batch_norm
from pipelines.network.build import build_network
from pipelines.network.checkpoint import Snapshot, restore_checkpoint, take_snapshot
from pipelines.network.init_weights import (
    InitialReport,
    load_backbone_weights,
    load_initial_weights,
)
from pipelines.network.precision import Numerics
from pipelines.training.distributed import WorkerGroup, check_ranks_agree
from pipelines.training.experiment import Experiment
from pipelines.training.lineage import check_lineage, lineage_of_run
from pipelines.training.optimization import build_optimizer, learning_rate

# What turns off the exchange of buffers before each step; renamed in torch 2.13.
_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)


class NonFiniteLossError(UserError, RuntimeError):
    """The loss became NaN or infinite; the message says where."""


@dataclass
class Position:
    """How far a training is: finished epochs, and steps of the epoch under way with what they have
    added up to. loss_sums: total loss first, then each of `loss_names`; seconds: spent on them."""

    epoch: int = 0
    step: int = 0
    loss_names: list[str] = field(default_factory=list)
    loss_sums: list[float] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Report:
    """What a training hands to `report`, on every worker at the same moment.

    At the end of an epoch: epoch, counted from 1; metrics, name to value, mIoU and IoU in [0, 1];
    scores on the validation split, None in epochs without validation. In the middle of one:
    `metrics` and `scores` are None. snapshot: copies the training's state, to be written while it
    goes on; only rank 0 needs to call it, and before `report` returns.
    """

    epoch: int
    metrics: dict[str, float] | None
    scores: Scores | None
    snapshot: Callable[[], Snapshot]


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

        Raises DatasetError where a split is missing, NetworkError or WeightsError
        where the network or its weights cannot be had, ValueError where the group has more workers
        than a batch has images, RankMismatchError where another worker has another experiment,
        other data or other weights.
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
        self.initial: InitialReport | None = None
        if config.init is not None:
            self.initial = load_initial_weights(model, config.init, config.init_skip)
        fingerprint = dataset.manifest.fingerprint
        self.origin = lineage_of_run(experiment, fingerprint, self.numerics.precision)
        check_ranks_agree(self.group, self.origin)
        self.model = self.numerics.place(model)
        if self.group.size > 1:
            self.model = synchronize_batch_norm(self.model, device)
        self.replica = self.model
        if config.compile:
            self.replica = cast(nn.Module, torch.compile(self.model))
        if self.group.size > 1:
            self.replica = DistributedDataParallel(
                self.replica,
                device_ids=[device] if device.type == "cuda" else None,
                gradient_as_bucket_view=True,
                # Equal on all workers, because the statistics are.
                **{_BUFFERS: False},  # type: ignore[arg-type]
            )
        self.optimizer = build_optimizer(self.model, config)
        self.criterion = SegmentationLoss(config.loss).to(device)
        self.augmentation = Augmentation(data.augmentation, data.crop)
        self.batches = TrainingBatches(
            self.samples(data.train_split),
            data,
            seed=experiment.seed,
            global_batch=config.batch // config.accumulation,
            rank=self.group.rank,
            world=self.group.size,
            pin=device.type == "cuda",
        )
        self.validation: EvaluationBatches | None = None
        if data.validation_split is not None:
            self.validation = EvaluationBatches(
                self.samples(data.validation_split),
                batch=experiment.evaluation.batch,
                rank=self.group.rank,
                world=self.group.size,
            )
        self.position = Position()
        self.history: list[dict[str, float]] = []

    def samples(self, split: str) -> Samples:
        """The samples of a split, from the node cache where there is one. Raises DatasetError."""
        if self.cache is None:
            return self.dataset.split(split)
        return self.cache.decoded(self.dataset, split)

    def restore(self, directory: Path) -> None:
        """Go on from a checkpoint. Raises CheckpointError with the differences where it belongs to
        another network, other data or another experiment."""
        state = restore_checkpoint(directory, self.model, self.optimizer)
        check_lineage(directory, self.origin)
        self.position = Position(**state["position"])
        self.history = list(state["history"])

    def run(
        self,
        report: Callable[[Report], None],
        report_steps: int | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train what remains; call `report` after each epoch, and after every `report_steps` steps
        within one. stop: asked on every worker in every step; once one of them says yes, the step
        is reported, and the training ends there on all of them.

        Raises NonFiniteLossError, DatasetError where a sample cannot be read, and
        RankMismatchError where the workers are not at the same place.
        """
        here = {"position": asdict(self.position), "history": self.history}
        check_ranks_agree(self.group, here)
        epochs = self.experiment.training.epochs
        every = self.experiment.evaluation.every
        while self.position.epoch < epochs:
            metrics = self._train_epoch(report, report_steps, stop)
            if metrics is None:
                return
            seconds = self.position.seconds
            self.position = Position(epoch=self.position.epoch + 1)
            epoch = self.position.epoch
            scores = None
            if self.validation is not None and (epoch % every == 0 or epoch == epochs):
                started = time.perf_counter()
                scores = evaluate(
                    self.model,
                    self.validation,
                    len(self.classes),
                    self.numerics,
                    self.experiment.evaluation,
                )
                figures = scores.metrics(self.classes)
                metrics |= {f"val/{name}": value for name, value in figures.items()}
                metrics["val/seconds"] = time.perf_counter() - started
                seconds += metrics["val/seconds"]
                metrics["val/best_miou"] = max(
                    [scores.miou] + [entry.get("val/miou", 0.0) for entry in self.history]
                )
            before = self.history[-1].get("seconds", 0.0) if self.history else 0.0
            metrics["seconds"] = before + seconds
            metrics["memory_gib"] = self.group.maximum(_peak_memory_gib(self.numerics.device))
            metrics = {"epoch": epoch, **metrics}
            self.history.append(metrics)
            report(Report(epoch, metrics, scores, self._snapshot))

    def _snapshot(self) -> Snapshot:
        state = {
            "experiment": self.origin,
            "position": asdict(self.position),
            "history": self.history,
        }
        return take_snapshot(self.model, self.optimizer, state)

    def _train_epoch(
        self,
        report: Callable[[Report], None],
        report_steps: int | None,
        stop: Callable[[], bool],
    ) -> dict[str, float] | None:
        """Train the steps that remain of the epoch under way; its metrics, None where it was
        stopped before its end."""
        config, position = self.experiment.training, self.position
        steps = -(-len(self.batches) // config.accumulation)
        parts = prefetch_to_device(
            self.batches.epoch(position.epoch, position.step * config.accumulation),
            self.augmentation,
            self.numerics.device,
        )
        while position.step < steps:
            started = time.perf_counter()
            # Validation and reports in between leave the model in another mode.
            self.replica.train()
            rate = learning_rate(config, position.epoch, position.step, steps)
            for parameters in self.optimizer.param_groups:
                parameters["lr"] = rate
            parts_of_step = list(islice(parts, config.accumulation))
            names, losses, stopped = self._step(parts_of_step, rate, stop())
            position.loss_names = names
            position.loss_sums = [
                sum(pair)
                for pair in zip(position.loss_sums or [0.0] * len(losses), losses, strict=True)
            ]
            position.step += 1
            position.seconds += time.perf_counter() - started
            if position.step == steps:
                break
            if stopped or (report_steps and position.step % report_steps == 0):
                report(Report(position.epoch + 1, None, None, self._snapshot))
            if stopped:
                return None
        means = [value / steps for value in position.loss_sums]
        metrics = {"train/loss": means[0]}
        if len(means) > 2:
            named = zip(position.loss_names, means[1:], strict=True)
            metrics |= {f"train/loss/{name}": value for name, value in named}
        metrics["learning_rate"] = rate
        metrics["images_per_second"] = steps * config.batch / position.seconds
        return metrics

    def _step(
        self, parts: list[TrainingBatch], rate: float, stop: bool
    ) -> tuple[list[str], list[float], bool]:
        """One optimizer step on the parts of a global batch. The names of the loss's terms, the
        total loss followed by each term, as means over the global batch, and whether any worker
        wants to `stop`, which travels with them."""
        self.optimizer.zero_grad(set_to_none=True)
        totals: Tensor | None = None
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            set_sample_keys(self.model, part.sample_keys)
            # What a network of the user's own draws, as dropout does, follows from this alone.
            place = (self.position.epoch, self.position.step, index, self.group.rank)
            torch.manual_seed(int(combine(self.experiment.seed, *place)))
            with nullcontext() if last else self._without_exchange():
                with self.numerics.autocast():
                    output = self.replica(self.numerics.arrange(part.images))
                    terms = self.criterion(output, part.labels)
                counts = self.group.sum(terms.counts)
                loss, _ = self.criterion.total(terms.sums, counts)
                # DDP averages the workers' gradients; the losses are shares of one global mean.
                (loss * (self.group.size / len(parts))).backward()
            wish = terms.sums.new_tensor([float(stop)])
            shared = self.group.sum(torch.cat([terms.sums.detach(), wish]))
            loss, per_term = self.criterion.total(shared[:-1], counts)
            measured = torch.cat([loss.reshape(1), per_term, shared[-1:]]).double() / len(parts)
            totals = measured if totals is None else totals + measured
        assert totals is not None, "a batch has at least one part"
        # The one transfer to the host in a step, after all of its work is queued.
        *losses, wishes = totals.tolist()
        if not math.isfinite(losses[0]):
            samples = ", ".join(name for part in parts for name in part.identifiers)
            raise NonFiniteLossError(
                f"loss {losses[0]} in epoch {self.position.epoch + 1}, step "
                f"{self.position.step + 1} at learning rate {rate:g}, samples {samples}"
            )
        clip = self.experiment.training.gradient_clip
        if clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.step()
        return list(terms.names), losses, wishes > 0

    def _without_exchange(self) -> AbstractContextManager[None]:
        """Within it, gradients add up on each worker instead of being averaged over them."""
        if isinstance(self.replica, DistributedDataParallel):
            return self.replica.no_sync()
        return nullcontext()


def _peak_memory_gib(device: torch.device) -> float:
    """Peak memory of the device on CUDA, of the process on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return peak_resident_gib()
