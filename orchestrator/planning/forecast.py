"""Forecasts a study before it runs: time of each trial, wall time, disk space and cost."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.planning.estimate import Calibration, Estimate, Measurement, Workload
from orchestrator.scheduling.policy import GangShape, Node, Waiting, simulate
from orchestrator.study.config import StudyConfig
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.resources import Resources
from pipelines.evaluation.config import EvaluationConfig, InferenceConfig
from pipelines.training.config import TrainingConfig

_BYTES = 4  # of a float32 value
_IN_THE_TRACKING_STORE = 2  # the weights of the last and the best epoch


@dataclass(frozen=True)
class TrialForecast:
    """The forecast of one trial.

    estimate: of the remaining work; None if nothing remains.
    device_hours: of the remaining work, summed over its GPUs (or CPU workers).
    disk: bytes that the trial keeps.
    """

    trial: ResolvedTrial
    estimate: Estimate | None
    device_hours: float
    disk: int


@dataclass(frozen=True)
class StudyForecast:
    """The forecast of a whole study.

    trials: in the study's order.
    device_hours: summed over all GPUs (or CPU workers).
    wall: seconds from now to the end, on the given nodes.
    longest: seconds of the longest trial, a lower bound for any number of nodes.
    disk: bytes.
    cost: None without a price.
    """

    trials: tuple[TrialForecast, ...]
    device_hours: Estimate
    wall: Estimate
    longest: Estimate
    disk: int
    cost: Estimate | None


def workload(trial: ResolvedTrial, resources: Resources) -> Workload:
    """Return the quantities of a trial that decide its time."""
    experiment = trial.experiment
    height, width = trial.cost.size
    images, megapixels = _evaluated(trial, experiment.evaluation)
    return Workload(
        gflops=trial.cost.gflops,
        megapixels=height * width / 1e6,
        parameters_m=trial.cost.parameters_m,
        batch=experiment.training.batch,
        micro_batches=experiment.training.accumulation,
        workers=resources.fewest_workers,
        evaluated_images=images,
        evaluated_megapixels=megapixels,
    )


def remaining(trial: ResolvedTrial, done: int) -> tuple[int, int]:
    """Return the numbers of optimizer steps and validations that follow the first `done` epochs."""
    duration, every = trial.duration, trial.experiment.evaluation.every
    epochs = duration.epochs
    steps = duration.steps - duration.steps_before(done)
    if trial.experiment.data.validation_split is None:
        return steps, 0
    validations = epochs // every - min(done, epochs) // every
    if epochs % every and done < epochs:
        validations += 1  # the last epoch is always validated
    return steps, validations


def priorities(config: StudyConfig, trials: Sequence[ResolvedTrial]) -> dict[str, int]:
    """Return each identity's start priority: 0 (first) for the trials that make the table readable
    early, which are the first seed (and fold, and sample) of the first variants; 1 for the
    others."""
    by_identity: dict[str, int] = {}
    for trial in trials:
        first_sample = trial.sample is None or trial.sample.number == 0
        first = trial.repetition == config.repetitions[0] and first_sample
        early = trial.variant in config.first_variants and first
        by_identity[trial.identity] = min(by_identity.get(trial.identity, 1), int(not early))
    return by_identity


@dataclass(frozen=True)
class Capacity:
    """The resources that trials run on.

    gang: resources of one trial.
    devices: GPUs (or CPU workers) that one trial holds.
    nodes: of the cluster.
    max_concurrent: maximum number of concurrent trials; None for no limit.
    price: of a device-hour, if known.
    """

    gang: GangShape
    devices: float
    nodes: Sequence[Node]
    max_concurrent: int | None
    price: float | None = None


class Forecaster:
    """Estimates trials and studies, given a calibration for each precision."""

    def __init__(self, resources: Resources, calibrations: Mapping[str, Calibration]) -> None:
        self._resources = resources
        self._calibrations = calibrations
        self._estimates: dict[tuple[Workload, str, int, int], Estimate] = {}

    @staticmethod
    def of(
        trials: Sequence[ResolvedTrial],
        resources: Resources,
        measurements: Sequence[Measurement],
        kind: Literal["cpu", "cuda"],
        device: str,
    ) -> "Forecaster":
        """Calibrate for `device` in each precision that the trials use."""
        precisions: set[str] = {trial.experiment.training.precision for trial in trials}
        calibrations = {p: Calibration.of(measurements, kind, device, p) for p in precisions}
        return Forecaster(resources, calibrations)

    @property
    def weakest(self) -> Calibration:
        """The calibration with the fewest measured workloads."""
        return min(self._calibrations.values(), key=lambda each: len(each.measured))

    def spread(self, trial: ResolvedTrial) -> float:
        """Return the standard deviation of log(actual time / estimated time) of a trial; 0 if its
        step was measured."""
        calibration = self._calibrations[trial.experiment.training.precision]
        load = workload(trial, self._resources)
        return 0.0 if calibration.is_measured(load) else calibration.spread(load)

    def trial(self, trial: ResolvedTrial, done: int = 0) -> Estimate:
        """Estimate the rest of a trial after its first `done` epochs."""
        precision = trial.experiment.training.precision
        steps, validations = remaining(trial, done)
        load = workload(trial, self._resources)
        key = load, precision, steps, validations
        if key not in self._estimates:
            calibration = self._calibrations[precision]
            self._estimates[key] = calibration.training(load, steps, validations)
        return self._estimates[key]

    def steps(self, trial: ResolvedTrial, count: int) -> float:
        """Return the seconds of a trial of `count` steps without validation."""
        calibration = self._calibrations[trial.experiment.training.precision]
        return calibration.training(workload(trial, self._resources), count, 0).value

    def study(
        self,
        trials: Sequence[ResolvedTrial],
        todo: Collection[str],
        epochs_done: Mapping[str, int],
        priority: Mapping[str, int],
        capacity: Capacity,
    ) -> StudyForecast:
        """Forecast a study.

        todo: identities to train; trials with the same identity are trained once.
        epochs_done: by identity, the epochs that an interrupted trial has finished.
        priority: by identity, see `priorities`.
        """
        forecasts = []
        waiting: dict[str, Waiting] = {}
        for trial in trials:
            estimate = None
            if trial.identity in todo:
                estimate = self.trial(trial, epochs_done.get(trial.identity, 0))
                waiting[trial.identity] = Waiting(
                    trial.identity, capacity.gang, estimate.value, priority[trial.identity]
                )
            hours = 0.0 if estimate is None else estimate.value * capacity.devices / 3600
            disk = disk_bytes(trial, self._resources.keep_checkpoints)
            forecasts.append(TrialForecast(trial, estimate, hours, disk))
        times = simulate(waiting.values(), capacity.nodes, capacity.max_concurrent)
        # The trials' errors share a cause, the calibration, and so do not cancel in a sum.
        unique = {t.trial.identity: t.estimate for t in forecasts if t.estimate is not None}
        seconds = sum(estimate.value for estimate in unique.values())
        whole = Estimate(
            1.0,
            sum(estimate.low for estimate in unique.values()) / seconds if seconds else 1.0,
            sum(estimate.high for estimate in unique.values()) / seconds if seconds else 1.0,
        )
        nothing = Estimate(0.0, 0.0, 0.0)
        longest = max(unique.values(), key=lambda estimate: estimate.value, default=nothing)
        beside = whole.scaled(max((end for _, end in times.values()), default=0.0) - longest.value)
        device_hours = whole.scaled(seconds * capacity.devices / 3600)
        price = capacity.price
        return StudyForecast(
            trials=tuple(forecasts),
            device_hours=device_hours,
            wall=Estimate(
                longest.value + beside.value, longest.low + beside.low, longest.high + beside.high
            ),
            longest=longest,
            disk=sum(
                {t.trial.identity: t.disk for t in forecasts if t.estimate is not None}.values()
            ),
            cost=None if price is None else device_hours.scaled(price),
        )


def checkpoint_bytes(trial: ResolvedTrial) -> int:
    """Return the bytes of one checkpoint."""
    copies = _copies_in_a_checkpoint(trial.experiment.training)
    return int(copies * _BYTES * trial.cost.values_m * 1e6)


def disk_bytes(trial: ResolvedTrial, kept: int) -> int:
    """Return the bytes of a trial's checkpoints (the last and the `kept` best) and of the weights
    among its run's artifacts."""
    weights = int(_IN_THE_TRACKING_STORE * _BYTES * trial.cost.values_m * 1e6)
    return checkpoint_bytes(trial) * (1 + kept) + weights


def _copies_in_a_checkpoint(training: TrainingConfig) -> int:
    """Return how many values a checkpoint holds for each weight: the weight, what the optimizer
    keeps of it (two values, as AdamW, where this is unknown), and its average."""
    of_the_optimizer = 1 if training.optimizer_config.name == "sgd" else 2
    return 1 + of_the_optimizer + (training.ema is not None)


def _evaluated(trial: ResolvedTrial, config: EvaluationConfig) -> tuple[int, float]:
    """Return the images of a validation, and the megapixels of all passes over them."""
    name = trial.experiment.data.validation_split
    if name is None:
        return 0, 0.0
    split = trial.dataset.split(name)
    pixels = float((split.heights * split.widths).sum())
    return len(split), pixels * passes(config) / 1e6


def passes(config: InferenceConfig) -> float:
    """Return how often each pixel is computed, over scales, flips and overlapping windows."""
    count = sum(scale**2 for scale, _ in config.views)
    if config.window is not None and config.step is not None:
        count *= math.prod(config.window) / math.prod(config.step)
    return count
