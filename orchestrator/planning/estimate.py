"""Estimates training time from a few coefficients per device, fitted to measured times.

The time of a step is modeled as a constant, plus terms proportional to the images' multiply-adds
and pixels, plus the gradient exchange if there are several workers. Measurements come from finished
trials and from the few steps of preflight runs and probes. Without any, rules of thumb give the
order of magnitude. The further a training is from the measured ones, the wider its interval.
"""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from orchestrator.planning.coefficients import Coefficients

Source = Literal["trial", "preflight", "probe"]

# Seconds per micro-batch, giga multiply-add, megapixel, and million exchanged parameters.
_RULES_OF_THUMB = {
    "cpu": np.array([0.1, 0.1, 0.3, 0.005]),
    "cuda": np.array([0.03, 0.0001, 0.002, 0.00005]),
}
_START_SECONDS = 20.0
# A forward pass is a third of a training step's work.
_FORWARD_SHARE = 1 / 3
# Standard deviation of log(actual time / measured time) of the same workload, best source first.
_SPREAD: dict[Source, float] = {"trial": 0.15, "preflight": 0.25, "probe": 0.35}
# Of log(actual time / fitted time): networks with equal features differ in speed.
_MISFIT = 0.3
_NORMAL_90 = 1.2816  # 90 % quantile, for an 80 % interval


@dataclass(frozen=True)
class Workload:
    """The quantities that decide how long a training takes on a given device.

    gflops: multiply-adds / 1e9 of the forward pass of one crop.
    megapixels: of one crop.
    parameters_m: parameters in millions.
    batch: global batch size over all `workers`, as `micro_batches`.
    evaluated_images: images of one validation.
    evaluated_megapixels: of one validation, summed over images, scales and flips.
    """

    gflops: float
    megapixels: float
    parameters_m: float
    batch: int
    micro_batches: int
    workers: int
    evaluated_images: int
    evaluated_megapixels: float


@dataclass(frozen=True)
class Measurement:
    """Times of one training on `device` in `precision`, in seconds; None if not measured.

    step: of one optimizer step.
    validation: of one validation.
    start: of everything else in a trial, such as starting its processes.
    """

    workload: Workload
    device: str
    precision: str
    source: Source
    step: float
    validation: float | None = None
    start: float | None = None

    def to_json(self) -> str:
        """Return one line of JSON that `from_json` reads."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Measurement | None":
        """Return the measurement, or None if another version wrote it in another format."""
        try:
            values = json.loads(text)
            workload = Workload(**values["workload"])
            measurement = Measurement(**{**values, "workload": workload})
        except (AttributeError, TypeError, KeyError, ValueError):
            return None
        return measurement if measurement.source in _SPREAD else None


@dataclass(frozen=True)
class Estimate:
    """An estimated amount, in any unit, with its 80 % interval from `low` to `high`."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> "Estimate":
        return Estimate(self.value * factor, self.low * factor, self.high * factor)

    def plus(self, amount: float) -> "Estimate":
        return Estimate(self.value + amount, self.low + amount, self.high + amount)


@dataclass(frozen=True)
class Calibration:
    """The fitted coefficients of one device and precision.

    coefficients: seconds per feature of a step, see `_features`.
    evaluation_factor: measured over fitted validation time.
    start: seconds of a trial outside of steps and validations.
    measured: one measurement for each different workload, the best source first; empty for rules of
        thumb.
    """

    coefficients: Coefficients
    evaluation_factor: float
    start: float
    measured: tuple[Measurement, ...]

    @staticmethod
    def of(
        measurements: Sequence[Measurement],
        kind: Literal["cpu", "cuda"],
        device: str,
        precision: str,
    ) -> "Calibration":
        """Fit to the measurements of `device` and `precision`; of each workload, to those from the
        best available source."""
        fitting = [m for m in measurements if (m.device, m.precision) == (device, precision)]
        thumb = _RULES_OF_THUMB[kind]
        if not fitting:
            return Calibration(Coefficients.prior(thumb), 1.0, _START_SECONDS, ())
        used = _typical(fitting)
        coefficients = Coefficients.fit(
            np.array([_features(m.workload) for m in used]),
            np.array([m.step for m in used]),
            thumb,
            np.array([math.hypot(_SPREAD[m.source], _MISFIT) for m in used]),
        )
        starts = [m.start for m in fitting if m.start is not None]
        plain = Calibration(
            coefficients,
            1.0,
            statistics.median(starts) if starts else _START_SECONDS,
            tuple(used),
        )
        factors = [
            m.validation / plain._fitted_validation(m.workload)
            for m in used
            if m.validation and m.workload.evaluated_megapixels
        ]
        return replace(
            plain,
            evaluation_factor=statistics.median(factors) if factors else 1.0,
        )

    def step(self, workload: Workload) -> float:
        """Seconds of an optimizer step: measured if this workload was, otherwise fitted."""
        measurement = self._measurement(workload)
        if measurement is not None:
            return measurement.step
        return self.coefficients.seconds(_features(workload))

    def validation(self, workload: Workload) -> float:
        """Seconds of one validation."""
        for measurement in self.measured:
            if measurement.workload == workload and measurement.validation:
                return measurement.validation
        return self._fitted_validation(workload)

    def _fitted_validation(self, workload: Workload) -> float:
        _, per_gflop, per_megapixel, _ = self.coefficients.values * _FORWARD_SHARE
        per_pixel = workload.gflops / workload.megapixels * per_gflop + per_megapixel
        seconds = workload.evaluated_megapixels * per_pixel / workload.workers
        return float(seconds * self.evaluation_factor)

    def training(self, workload: Workload, steps: int, validations: int) -> Estimate:
        """Estimate a whole trial, from starting its processes to writing its results."""
        seconds = self.start + steps * self.step(workload)
        seconds += validations * self.validation(workload)
        factor = math.exp(_NORMAL_90 * self.spread(workload))
        return Estimate(seconds, seconds / factor, seconds * factor)

    def spread(self, workload: Workload) -> float:
        """Return the standard deviation of log(actual time / estimated time)."""
        measurement = self._measurement(workload)
        if measurement is not None:
            return _SPREAD[measurement.source]
        # Measurements that agree say nothing about coefficients that none of them depends on.
        scale = self.coefficients.error_scale
        unknown = max(1.0, scale) * self.coefficients.spread(_features(workload))
        return math.hypot(_SPREAD["trial"], scale * _MISFIT, unknown)

    def is_measured(self, workload: Workload) -> bool:
        """Whether the step of this workload was measured."""
        return self._measurement(workload) is not None

    def _measurement(self, workload: Workload) -> Measurement | None:
        """Return the measurement of this workload's step, from the best source."""
        return next((m for m in self.measured if _same_step(m.workload, workload)), None)


def _features(workload: Workload) -> NDArray[np.float64]:
    """Return the features of a step, `(4,)`; their product with the coefficients is its duration in
    seconds."""
    images = workload.batch / workload.workers
    if workload.micro_batches > 1:  # the kept pixels are counted in an additional forward pass
        images *= 1 + _FORWARD_SHARE
    exchanged = workload.parameters_m if workload.workers > 1 else 0.0
    return np.array(
        [workload.micro_batches, images * workload.gflops, images * workload.megapixels, exchanged]
    )


def _same_step(one: Workload, other: Workload) -> bool:
    return replace(one, evaluated_images=0, evaluated_megapixels=0.0) == replace(
        other, evaluated_images=0, evaluated_megapixels=0.0
    )


def _typical(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Reduce the measurements to one for each workload: the medians of those from the best source,
    which comes first."""
    groups: dict[Workload, list[Measurement]] = {}
    for source in _SPREAD:
        found = [m for m in measurements if m.source == source and m.workload not in groups]
        for measurement in found:
            groups.setdefault(measurement.workload, []).append(measurement)
    typical = []
    for group in groups.values():
        validations = [m.validation for m in group if m.validation is not None]
        typical.append(
            replace(
                group[0],
                step=statistics.median(m.step for m in group),
                validation=statistics.median(validations) if validations else None,
            )
        )
    return typical
