"""The training loop, in plain torch.

It depends on no scheduler and no tracking store. It takes an experiment, data and a `report`
callable, and runs the same way alone, in a test, and as one worker of a distributed group.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models import LossTerms, PretrainedReport, set_sample_keys
from models.user_code import describe
from pipelines.data.augmentation import Augmentation
from pipelines.data.dataset import PreparedDataset, Samples
from pipelines.data.device_batches import TrainingBatch, prefetch_to_device
from pipelines.data.loading import EvaluationBatches, TrainingBatches
from pipelines.data.node_cache import NodeCache
from pipelines.data.randomness import hash_integers
from pipelines.data.transforms import check_transforms
from pipelines.device_memory import peak_memory_gib
from pipelines.errors import UserError
from pipelines.evaluation.evaluate import Scores, evaluate
from pipelines.evaluation.measuring import build_metrics
from pipelines.network.batch_norm import synchronize_batch_norm
from pipelines.network.build import build_network, is_custom, unreached_parameters
from pipelines.network.checkpoint import Snapshot, restore_checkpoint, take_snapshot
from pipelines.network.init_weights import (
    InitReport,
    load_backbone_weights,
    load_initial_weights,
)
from pipelines.network.precision import Numerics, check_precision, has_native_bfloat16
from pipelines.training.determinism import training_algorithms
from pipelines.training.distributed import (
    WorkerGroup,
    check_buffers_agree,
    check_ranks_agree,
    data_parallel,
    keep_gradient_strides,
)
from pipelines.training.duration import Duration
from pipelines.training.experiment import Experiment
from pipelines.training.host_copy import HostCopy
from pipelines.training.lineage import check_lineage, lineage_of_run
from pipelines.training.losses import build_loss, class_frequencies, image_class_frequencies
from pipelines.training.optimization import LearningRate, build_optimizer
from pipelines.training.parameter_groups import RATE_FACTOR, moving_parameters
from pipelines.training.weight_average import WeightAverage


class NonFiniteLossError(UserError, RuntimeError):
    """The loss is NaN or infinite; the message names epoch, step and samples."""


@dataclass
class Position:
    """The progress of a training, as saved in checkpoints.

    epoch: finished epochs. step: finished steps of the current epoch. loss_names: names of the loss
    terms. loss_sums: sums over these steps, the total loss first, then each term. seconds: time
    spent on these steps.
    """

    epoch: int = 0
    step: int = 0
    loss_names: list[str] = field(default_factory=list)
    loss_sums: list[float] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class TrainingReport:
    """The argument of `report`, which every worker calls at the same point of the training.

    epoch: the current epoch, counted from 1.
    seconds: time of training and validation so far, over all resumes.
    metrics: name to value at the end of an epoch, mIoU and IoU in [0, 1]; None within an epoch.
    scores: scores on the validation split; None without validation.
    snapshot: copies the training's state, which can be written while the training continues. Only
        rank 0 needs to call it, before `report` returns.
    """

    epoch: int
    seconds: float
    metrics: dict[str, float] | None
    scores: Scores | None
    snapshot: Callable[[], Snapshot]


@dataclass(frozen=True)
class _StepTotals:
    """The loss of a step over all workers and micro-batches.

    names: of the T loss terms. gradient: `(S,)`, of the total loss with respect to the statistics,
    on the device. losses_and_votes: the total loss, each term's loss, and the number of workers
    that want to stop.
    """

    names: tuple[str, ...]
    gradient: Tensor
    losses_and_votes: HostCopy


class Training:
    """The training of one experiment, on one worker of the group."""

    def __init__(
        self,
        experiment: Experiment,
        dataset: PreparedDataset,
        device: torch.device,
        cache: NodeCache | None = None,
    ) -> None:
        """Build network, optimizer and data loading of this worker.

        cache: shares decoded splits with the other processes of this node. Without a cache, every
            sample is decoded each time.

        Raises:
            DatasetError: a split is missing, or has no labels although `class_uniform` is set.
            PrecisionError: the device would only emulate the precision.
            NetworkError, WeightsError: the network cannot be built, or weights cannot be loaded.
            OptimizationError, LossError: the optimizer, the schedule or the loss cannot be built.
            TransformError: a transform cannot be built or applied.
            MetricError: a metric cannot be built or applied.
            BatchSizeError: the group has more workers than a batch has images.
            RankMismatchError: a rank has another experiment, other data or other weights.
        """
        self.experiment = experiment
        self.dataset = dataset
        self.cache = cache
        self.group = WorkerGroup.current()
        config, data = experiment.training, experiment.data
        check_precision(config.precision, device.type, has_native_bfloat16(device.type))
        self.numerics = Numerics.choose(device, config.precision, config.memory_format)
        self.classes = [entry.name for entry in dataset.manifest.classes]

        images = dataset.manifest.images
        model = build_network(experiment.model, len(self.classes), experiment.seed, images.channels)
        self.pretrained: PretrainedReport | None = None
        if config.backbone_weights is not None:
            self.pretrained = load_backbone_weights(model, config.backbone_weights)
        self.initial: InitReport | None = None
        if config.init is not None:
            self.initial = load_initial_weights(model, config.init, config.init_skip)
        fingerprint = dataset.manifest.fingerprint
        self.lineage = lineage_of_run(experiment, fingerprint, self.numerics.precision)
        check_ranks_agree(self.group, self.lineage)
        has_unreached = False
        if self.group.size > 1 and is_custom(experiment.model):
            unreached = unreached_parameters(model, data.crop, images.channels)
            # A network that draws numbers may reach different parameters on each worker.
            has_unreached = self.group.maximum(len(unreached)) > 0
        self.model = self.numerics.to_device(model)
        if self.group.size > 1:
            self.model = synchronize_batch_norm(self.model)
        self.replica = self.model
        if config.compile:
            self.replica = cast(nn.Module, torch.compile(self.model))
        if self.group.size > 1:
            keep_gradient_strides(self.model)
            self.replica = data_parallel(self.replica, device, has_unreached)
        self.average = WeightAverage(self.model, config.ema) if config.ema is not None else None
        self.optimizer = build_optimizer(self.model, config)
        self._moving = moving_parameters(self.model, self.optimizer)
        train = dataset.split(data.trained_on)
        self.duration = Duration.of(config, len(train))
        self.learning_rate = LearningRate(config, self.duration)
        frequencies = class_frequencies(train), image_class_frequencies(train)
        self.criterion = build_loss(config.loss, *frequencies).to(device)
        check_transforms(data.augmentation, data.crop, images)
        build_metrics(experiment.evaluation.metric_configs, len(self.classes))
        self.augmentation = Augmentation(data.augmentation, data.crop, images)
        self.batches = TrainingBatches(
            self.samples(data.trained_on),
            data,
            seed=experiment.seed,
            global_batch=config.batch // config.accumulation,
            rank=self.group.rank,
            world=self.group.size,
            threads=self.threads,
            ahead=max(4, self.threads),
            pin=device.type == "cuda",
            micro_batches=config.accumulation,
        )
        self.validation: EvaluationBatches | None = None
        if data.validation_split is not None:
            self.validation = EvaluationBatches(
                self.samples(data.validation_split),
                batch=experiment.evaluation.batch,
                rank=self.group.rank,
                world=self.group.size,
                threads=self.threads,
                ahead=self.threads,
            )
        self.position = Position()
        self.history: list[dict[str, float]] = []
        self._has_stepped = False

    @property
    def scored_model(self) -> nn.Module:
        """The network that is scored and saved: with averaged weights, or the trained one."""
        return self.model if self.average is None else self.average.model

    @property
    def threads(self) -> int:
        """Number of loading threads: one for each core of this worker, at least 2."""
        return max(2, torch.get_num_threads())

    def samples(self, split: str) -> Samples:
        """Return the samples of a split, from the node cache if there is one.

        Raises:
            DatasetError: the split is missing, or a sample is damaged.
        """
        if self.cache is None:
            return self.dataset.split(split)
        return self.cache.decoded(self.dataset, split, self.threads)

    def restore(self, directory: Path) -> None:
        """Resume from a checkpoint.

        Raises:
            CheckpointError: it cannot be read, or has another network, data set or experiment; the
                message lists the differences.
        """
        average = None if self.average is None else self.average.model
        state = restore_checkpoint(directory, self.model, self.optimizer, average)
        check_lineage(directory, self.lineage)
        self.position = Position(**state["position"])
        self.history = list(state["history"])

    def run(
        self,
        report: Callable[[TrainingReport], None],
        report_steps: int | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train the remaining epochs; call `report` after each, also after a shorter last one.

        report_steps: also call `report` after this number of steps within an epoch.
        stop: called by every worker in every step. Once it returns true on any of them, the step is
            reported and the training ends on all workers.

        Raises:
            NonFiniteLossError: the loss is NaN or infinite.
            DatasetError: a sample cannot be read.
            RankMismatchError: the ranks resumed from different positions.
            NetworkError: a buffer of the network differs between the workers.
        """
        progress = {"position": asdict(self.position), "history": self.history}
        check_ranks_agree(self.group, progress)
        config = self.experiment.training
        epochs = self.duration.epochs
        evaluation_interval = self.experiment.evaluation.every
        while self.position.epoch < epochs:
            with training_algorithms(config.deterministic):
                metrics = self._train_epoch(report, report_steps, stop)
            if metrics is None:
                return
            check_buffers_agree(self.group, self.model)
            seconds = self.position.seconds
            self.position = Position(epoch=self.position.epoch + 1)
            epoch = self.position.epoch
            scores = None
            is_due = epoch % evaluation_interval == 0 or epoch == epochs
            if self.validation is not None and is_due:
                started = time.perf_counter()
                scores = evaluate(
                    self.scored_model,
                    self.validation,
                    len(self.classes),
                    self.numerics,
                    self.experiment.evaluation,
                )
                values = scores.metrics(self.classes)
                metrics |= {f"val/{name}": value for name, value in values.items()}
                metrics["val/seconds"] = time.perf_counter() - started
                seconds += metrics["val/seconds"]
                scored = [e["val/miou"] for e in (*self.history, metrics) if "val/miou" in e]
                if scored:  # without a labeled pixel, there is no mIoU
                    metrics["val/best_miou"] = max(scored)
            metrics["seconds"] = self._earlier_seconds + seconds
            metrics["memory_gib"] = self.group.maximum(peak_memory_gib(self.numerics.device))
            metrics = {"epoch": epoch, **metrics}
            self.history.append(metrics)
            report(TrainingReport(epoch, metrics["seconds"], metrics, scores, self._snapshot))

    @property
    def _earlier_seconds(self) -> float:
        """Seconds of the finished epochs."""
        return self.history[-1].get("seconds", 0.0) if self.history else 0.0

    def _snapshot(self) -> Snapshot:
        state = {
            "experiment": self.lineage,
            "position": asdict(self.position),
            "history": self.history,
        }
        average = None if self.average is None else self.average.model
        return take_snapshot(self.model, self.optimizer, state, average)

    def _train_epoch(
        self,
        report: Callable[[TrainingReport], None],
        report_steps: int | None,
        stop: Callable[[], bool],
    ) -> dict[str, float] | None:
        """Train the remaining steps of the current epoch.

        Returns its metrics, or None if `stop` ended it early.
        """
        config, position = self.experiment.training, self.position
        steps = self.duration.steps_in(position.epoch)
        steps_before = self.duration.steps_before(position.epoch)
        micro_batches = prefetch_to_device(
            self.batches.epoch(position.epoch, position.step),
            self.augmentation,
            self.numerics.device,
        )
        while position.step < steps:
            started = time.perf_counter()
            # Validation and reports may have changed the mode of the model.
            self.replica.train()
            rate = self.learning_rate.at(position.epoch, position.step)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group.get(RATE_FACTOR, 1.0)
            in_step = list(islice(micro_batches, config.accumulation))
            with self._naming_memory_settings():
                names, losses, stopped = self._step(in_step, rate, stop())
            if not self._has_stepped:
                check_buffers_agree(self.group, self.model)
                self._has_stepped = True
            if self.average is not None:
                self.average.update(self.model, steps_before + position.step + 1)
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
                seconds = self._earlier_seconds + position.seconds
                report(TrainingReport(position.epoch + 1, seconds, None, None, self._snapshot))
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

    @contextmanager
    def _naming_memory_settings(self) -> Iterator[None]:
        """Add the settings that decide a step's memory to a MemoryError, which may have no text."""
        config, crop = self.experiment.training, self.experiment.data.crop
        try:
            yield
        except MemoryError as error:
            raise MemoryError(
                f"a step with training.batch {config.batch} in {config.accumulation} "
                f"micro-batches and data.crop {list(crop)} ({describe(error)})"
            ) from error

    def _step(
        self, micro_batches: list[TrainingBatch], rate: float, stop: bool
    ) -> tuple[list[str], list[float], bool]:
        """Take one optimizer step on the micro-batches of a global batch.

        Returns the names of the loss terms; the total loss and each term, as means over the global
        batch; and whether `stop` is true on any worker, which is reduced together with the losses.
        """
        self.optimizer.zero_grad(set_to_none=True)
        totals: _StepTotals | None = None
        if len(micro_batches) > 1:
            totals = self._reduce(self._whole_batch(micro_batches), stop)
        for index, micro_batch in enumerate(micro_batches):
            last = index == len(micro_batches) - 1
            with nullcontext() if last else self._without_gradient_sync():
                terms = self._loss_terms(index, micro_batch)
                if totals is None:
                    totals = self._reduce(terms, stop)
                # The chain rule: the statistics of all micro-batches and workers add up.
                terms.statistics.backward(gradient=totals.gradient)
        assert totals is not None, "a batch has at least one micro-batch"
        # The only time that the host waits in a step: for the losses, while backward still runs.
        *losses, stop_votes = totals.losses_and_votes.values()
        if not math.isfinite(losses[0]):
            samples = ", ".join(
                name for micro_batch in micro_batches for name in micro_batch.identifiers
            )
            raise NonFiniteLossError(
                f"loss {losses[0]} in epoch {self.position.epoch + 1}, step "
                f"{self.position.step + 1} at learning rate {rate:g}, samples {samples}"
            )
        clip = self.experiment.training.gradient_clip
        if clip is not None:
            nn.utils.clip_grad_norm_(self._moving, clip)
        self.optimizer.step()
        return list(totals.names), losses, stop_votes > 0

    def _reduce(self, terms: LossTerms, stop: bool) -> _StepTotals:
        """Add up the statistics and the stop requests of all workers in one exchange."""
        vote = torch.full((1,), float(stop), device=terms.statistics.device)
        reduced = self.group.sum(torch.cat([terms.statistics, vote]))
        statistics, votes = reduced.split([len(terms.statistics), 1])
        statistics = statistics.clone().requires_grad_()
        loss, per_term = self.criterion.total(statistics, terms.sizes)
        # DDP averages gradients over the workers, but their statistics add up to the batch's.
        scale = torch.full_like(loss, self.group.size)
        (gradient,) = torch.autograd.grad(loss, statistics, scale)
        losses = torch.cat([loss.detach().reshape(1), per_term.detach(), votes])
        return _StepTotals(terms.names, gradient, HostCopy(losses))

    def _loss_terms(self, index: int, micro_batch: TrainingBatch) -> LossTerms:
        """Return this worker's loss terms for the micro-batch `index` of the current step."""
        set_sample_keys(self.model, micro_batch.sample_keys)
        # Seeds the random numbers that a custom network draws, for example for dropout.
        key = (self.position.epoch, self.position.step, index, self.group.rank)
        torch.manual_seed(int(hash_integers(self.experiment.seed, *key)))
        with self.numerics.autocast():
            output = self.replica(self.numerics.to_memory_format(micro_batch.images))
            terms: LossTerms = self.criterion(output, micro_batch.labels)
        return terms

    @torch.no_grad()
    def _whole_batch(self, micro_batches: list[TrainingBatch]) -> LossTerms:
        """Return this worker's loss terms for the whole batch, summed over its micro-batches.

        The gradient of every micro-batch depends on the statistics of the whole batch, such as the
        number of pixels that mining keeps, so they are needed before the first backward pass. They
        depend on the network's output; this takes another forward pass, whose updates of batch norm
        statistics are undone.
        """
        saved = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        with self._without_gradient_sync():
            terms = [
                self._loss_terms(index, micro_batch)
                for index, micro_batch in enumerate(micro_batches)
            ]
        # By name, because a layer may have assigned other tensors.
        for name, buffer in self.model.named_buffers():
            if name in saved:
                buffer.copy_(saved[name])
        statistics = torch.stack([each.statistics for each in terms]).sum(dim=0)
        return terms[0]._replace(statistics=statistics)

    def _without_gradient_sync(self) -> AbstractContextManager[None]:
        """Return a context in which gradients accumulate without averaging over the workers."""
        if isinstance(self.replica, DistributedDataParallel):
            return self.replica.no_sync()
        return nullcontext()
