"""What a study will take before it runs: each trial's time, the wall time, the disk, the cost."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.planning.estimate import Calibration, Estimate, Measurement, Workload
from orchestrator.scheduling.policy import GangShape, Node, Waiting, simulate
from orchestrator.study.config import StudyConfig
from orchestrator.study.resolve import ResolvedTrial
from orchestrator.study.resources import Resources
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.inference import InferenceConfig

_BYTES = 4  # of a float32 value
_IN_A_CHECKPOINT = 2  # the weights and their momentum
_IN_THE_LEDGER = 2  # the weights of the last and the best


@dataclass(frozen=True)
class TrialForecast:
    """estimate: of what is still to be done, None where nothing is; device_hours: of its GPUs (CPU
    workers) together. disk: bytes that it keeps."""

    trial: ResolvedTrial
    estimate: Estimate | None
    device_hours: float
    disk: int


@dataclass(frozen=True)
class StudyForecast:
    """trials: as in the study. device_hours: of all GPUs (CPU workers) together; wall: seconds
    from now to the end on the nodes given; longest: seconds of the longest trial, which no number
    of nodes would shorten; disk: bytes; cost: None without a price."""

    trials: tuple[TrialForecast, ...]
    device_hours: Estimate
    wall: Estimate
    longest: Estimate
    disk: int
    cost: Estimate | None


def workload(trial: ResolvedTrial, resources: Resources) -> Workload:
    """What of a trial decides its time."""
    experiment = trial.experiment
    height, width = trial.cost.size
    images, megapixels = _evaluated(trial, experiment.evaluation)
    return Workload(
        gflops=trial.cost.gflops,
        megapixels=height * width / 1e6,
        parameters_m=trial.cost.parameters_m,
        batch=experiment.training.batch,
        parts=experiment.training.accumulation,
        workers=resources.fewest_workers,
        evaluated_images=images,
        evaluated_megapixels=megapixels,
    )


def remaining(trial: ResolvedTrial, done: int) -> tuple[int, int]:
    """Optimizer steps and validations after `done` epochs."""
    epochs, every = trial.experiment.training.epochs, trial.experiment.evaluation.every
    steps = trial.steps // epochs * max(0, epochs - done)
    if trial.experiment.data.validation_split is None:
        return steps, 0
    validations = epochs // every - min(done, epochs) // every
    if epochs % every and done < epochs:
        validations += 1  # the last epoch is always validated
    return steps, validations


def ranks(config: StudyConfig, trials: Sequence[ResolvedTrial]) -> dict[str, int]:
    """By identity: 0 for what makes the table readable early, 1 for the rest."""
    found: dict[str, int] = {}
    for trial in trials:
        early = trial.variant in config.first_variants and trial.experiment.seed == config.seeds[0]
        found[trial.identity] = min(found.get(trial.identity, 1), int(not early))
    return found


@dataclass(frozen=True)
class Capacity:
    """What trials run on. gang: of one trial; devices: GPUs (CPU workers) it holds; nodes: what the
    cluster offers; max_concurrent: most trials together; price: of a device-hour, if known."""

    gang: GangShape
    devices: float
    nodes: Sequence[Node]
    max_concurrent: int | None
    price: float | None = None


class Forecaster:
    """Estimates trials and studies. calibrations: by precision."""

    def __init__(self, resources: Resources, calibrations: Mapping[str, Calibration]) -> None:
        self._resources = resources
        self._calibrations = calibrations
        self._known: dict[tuple[Workload, str, int, int], Estimate] = {}

    @staticmethod
    def of(
        trials: Sequence[ResolvedTrial],
        resources: Resources,
        measurements: Sequence[Measurement],
        kind: Literal["cpu", "cuda"],
        device: str,
    ) -> "Forecaster":
        """With what was measured on `device` in each of the precisions the trials ask for."""
        precisions: set[str] = {trial.experiment.training.precision for trial in trials}
        found = {p: Calibration.of(measurements, kind, device, p) for p in precisions}
        return Forecaster(resources, found)

    @property
    def weakest(self) -> Calibration:
        """The calibration that is known least well."""
        return max(self._calibrations.values(), key=lambda calibration: calibration.spread)

    def trial(self, trial: ResolvedTrial, done: int = 0) -> Estimate:
        """How long a trial takes that has `done` epochs behind it."""
        precision = trial.experiment.training.precision
        left = remaining(trial, done)
        key = (workload(trial, self._resources), precision, *left)
        if key not in self._known:
            self._known[key] = self._calibrations[precision].training(key[0], *left)
        return self._known[key]

    def steps(self, trial: ResolvedTrial, count: int) -> float:
        """Seconds of a trial that takes `count` steps and validates nothing."""
        calibration = self._calibrations[trial.experiment.training.precision]
        return calibration.training(workload(trial, self._resources), count, 0).seconds

    def study(
        self,
        trials: Sequence[ResolvedTrial],
        todo: Collection[str],
        epochs_done: Mapping[str, int],
        priority: Mapping[str, int],
        capacity: Capacity,
    ) -> StudyForecast:
        """Estimate all of a study.

        todo: identities that are to be trained, each once however many trials share it.
        epochs_done: by identity, what an interrupted trial need not repeat. priority: by identity,
        see `ranks`.
        """
        forecasts = []
        waiting: dict[str, Waiting] = {}
        for trial in trials:
            estimate = None
            if trial.identity in todo:
                estimate = self.trial(trial, epochs_done.get(trial.identity, 0))
                waiting[trial.identity] = Waiting(
                    trial.identity, capacity.gang, estimate.seconds, priority[trial.identity]
                )
            hours = 0.0 if estimate is None else estimate.seconds * capacity.devices / 3600
            disk = disk_bytes(trial, self._resources.keep_checkpoints)
            forecasts.append(TrialForecast(trial, estimate, hours, disk))
        times = simulate(waiting.values(), capacity.nodes, capacity.max_concurrent)
        # The errors have one cause, the calibration, and do not cancel in a sum.
        whole = self.weakest.band(1.0)
        seconds = sum(entry.seconds for entry in waiting.values())
        device_hours = whole.scaled(seconds * capacity.devices / 3600)
        price = capacity.price
        return StudyForecast(
            trials=tuple(forecasts),
            device_hours=device_hours,
            wall=whole.scaled(max((end for _, end in times.values()), default=0.0)),
            longest=whole.scaled(max((entry.seconds for entry in waiting.values()), default=0.0)),
            disk=sum(
                {t.trial.identity: t.disk for t in forecasts if t.estimate is not None}.values()
            ),
            cost=None if price is None else device_hours.scaled(price),
        )


def disk_bytes(trial: ResolvedTrial, kept: int) -> int:
    """Bytes of a trial's checkpoints, the last and the `kept` best, and of its weights among the
    run's artifacts."""
    copies = _IN_A_CHECKPOINT * (1 + kept) + _IN_THE_LEDGER
    return int(copies * _BYTES * trial.cost.values_m * 1e6)


def _evaluated(trial: ResolvedTrial, config: EvaluationConfig) -> tuple[int, float]:
    """Images of a validation, and the megapixels of all passes over them."""
    name = trial.experiment.data.validation_split
    if name is None:
        return 0, 0.0
    split = trial.dataset.split(name)
    pixels = float((split.heights * split.widths).sum())
    return len(split), pixels * passes(config) / 1e6


def passes(config: InferenceConfig) -> float:
    """How often a pixel of a picture is computed, over scales, flip and overlapping windows."""
    often = sum(scale**2 for scale, _ in config.views)
    if config.window is not None and config.step is not None:
        often *= math.prod(config.window) / math.prod(config.step)
    return often
