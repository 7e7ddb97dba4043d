"""How long trainings take: a few coefficients of a device, fitted to what was measured on it.

A step takes a fixed time, a time for each image's multiply-adds and pixels, and with several
workers one for the exchange of the gradients. Measurements are finished trials, a canary's or a
probe's few steps; where there is none, rules of thumb say the order of magnitude.
"""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Source = Literal["trial", "canary", "probe"]

# Seconds for: a part of a step, a giga multiply-add, a megapixel, a million exchanged parameters.
_RULES_OF_THUMB = {
    "cpu": np.array([0.02, 0.1, 0.3, 0.005]),
    "cuda": np.array([0.03, 0.0001, 0.002, 0.00005]),
}
_START_SECONDS = 20.0
# A forward pass is a third of a training step's work.
_EVALUATION_SHARE = 1 / 3
# How firmly the rules' proportions hold against a measurement that contradicts them.
_STIFFNESS = 0.1
# Standard deviation of the logarithm of actual over estimated time, before anything says better.
_SPREAD: dict[Source, float] = {"trial": 0.15, "canary": 0.25, "probe": 0.35}
_SPREAD_UNMEASURED = 1.0
_PRIOR_WEIGHT = 2.0
_NORMAL_90 = 1.2816  # so that 80 % lie within the band


@dataclass(frozen=True)
class Workload:
    """What decides how long a training takes on a given device.

    gflops: multiply-adds / 1e9 of one crop, forward; megapixels: of one crop; parameters_m: in
    millions. batch: over all `workers`, in `parts` one after the other. evaluated_images, and
    evaluated_megapixels summed over them and over scales, flips: of one validation.
    """

    gflops: float
    megapixels: float
    parameters_m: float
    batch: int
    parts: int
    workers: int
    evaluated_images: int
    evaluated_megapixels: float


@dataclass(frozen=True)
class Measurement:
    """Times of one training on `device`, in `precision`. step: seconds of an optimizer step;
    validation: seconds of one validation; start: seconds of a trial that were neither. None: not
    measured."""

    workload: Workload
    device: str
    precision: str
    source: Source
    step: float
    validation: float | None = None
    start: float | None = None

    def to_json(self) -> str:
        """One line, for `from_json`."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Measurement | None":
        """None for what another version of the project wrote."""
        try:
            values = json.loads(text)
            return Measurement(**{**values, "workload": Workload(**values["workload"])})
        except (TypeError, KeyError, ValueError):
            return None


@dataclass(frozen=True)
class Estimate:
    """Seconds; four of five trials are expected between `low` and `high`."""

    seconds: float
    low: float
    high: float

    def scaled(self, factor: float) -> "Estimate":
        return Estimate(self.seconds * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Calibration:
    """A device's coefficients. spread: standard deviation of log(actual / estimated); source: what
    it rests on; networks: how many different workloads were measured."""

    coefficients: NDArray[np.float64]
    evaluation_factor: float
    start: float
    spread: float
    source: Source | None
    measured: tuple[Measurement, ...]

    @staticmethod
    def of(
        measurements: Sequence[Measurement],
        kind: Literal["cpu", "cuda"],
        device: str,
        precision: str,
    ) -> "Calibration":
        """Fit to the measurements of `device` and `precision`, finished trials before others."""
        fitting = [m for m in measurements if (m.device, m.precision) == (device, precision)]
        thumb = _RULES_OF_THUMB[kind]
        if not fitting:
            return Calibration(thumb, 1.0, _START_SECONDS, _SPREAD_UNMEASURED, None, ())
        source: Source = next(s for s in _SPREAD if any(m.source == s for m in fitting))
        used = _typical([m for m in fitting if m.source == source])
        coefficients = _fit(used, thumb)
        starts = [m.start for m in fitting if m.start is not None]
        plain = Calibration(
            coefficients, 1.0, statistics.median(starts) if starts else _START_SECONDS, 0.0,
            source, tuple(used),
        )  # fmt: skip
        factors = [
            m.validation / plain._fitted_validation(m.workload)
            for m in used
            if m.validation and m.workload.evaluated_megapixels
        ]
        return replace(
            plain,
            evaluation_factor=statistics.median(factors) if factors else 1.0,
            spread=_spread(used, thumb, _SPREAD[source]),
        )

    def step(self, workload: Workload) -> float:
        """Seconds of an optimizer step: as measured where just this was, else by the fit."""
        for measurement in self.measured:
            if _same_step(measurement.workload, workload):
                return measurement.step
        return float(_features(workload) @ self.coefficients)

    def validation(self, workload: Workload) -> float:
        """Seconds of one validation."""
        for measurement in self.measured:
            if measurement.workload == workload and measurement.validation:
                return measurement.validation
        return self._fitted_validation(workload)

    def _fitted_validation(self, workload: Workload) -> float:
        _, per_gflop, per_megapixel, _ = self.coefficients * _EVALUATION_SHARE
        per_pixel = workload.gflops / workload.megapixels * per_gflop + per_megapixel
        seconds = workload.evaluated_megapixels * per_pixel / workload.workers
        return float(seconds * self.evaluation_factor)

    def training(self, workload: Workload, steps: int, validations: int) -> Estimate:
        """A whole trial, from the start of its processes to its results."""
        seconds = self.start + steps * self.step(workload)
        seconds += validations * self.validation(workload)
        return self.band(seconds)

    def band(self, seconds: float) -> Estimate:
        """An estimated time with its uncertainty."""
        factor = math.exp(_NORMAL_90 * self.spread)
        return Estimate(seconds, seconds / factor, seconds * factor)


def _features(workload: Workload) -> NDArray[np.float64]:
    """What the coefficients are multiplied with to give a step's seconds."""
    images = workload.batch / workload.workers
    exchanged = workload.parameters_m if workload.workers > 1 else 0.0
    return np.array(
        [workload.parts, images * workload.gflops, images * workload.megapixels, exchanged]
    )


def _same_step(one: Workload, other: Workload) -> bool:
    return replace(one, evaluated_images=0, evaluated_megapixels=0.0) == replace(
        other, evaluated_images=0, evaluated_megapixels=0.0
    )


def _typical(measurements: Sequence[Measurement]) -> list[Measurement]:
    """One measurement for each workload: the medians of its own."""
    groups: dict[Workload, list[Measurement]] = {}
    for measurement in measurements:
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


def _fit(measurements: Sequence[Measurement], thumb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Non-negative coefficients with the least relative errors, held to the rules' proportions by
    as much as the measurements leave open."""
    features = np.array([_features(m.workload) for m in measurements])
    seconds = np.array([m.step for m in measurements])
    scaled = thumb * np.median(seconds / (features @ thumb))
    rows = np.vstack([features * scaled / seconds[:, None], _STIFFNESS * np.eye(len(thumb))])
    target = np.concatenate([np.ones(len(seconds)), np.full(len(thumb), _STIFFNESS)])
    solution, _ = nnls(rows, target)
    return solution * scaled


def _spread(measurements: Sequence[Measurement], thumb: NDArray[np.float64], prior: float) -> float:
    """How far each measurement lies off the fit that is made without it, as a standard deviation
    of the logarithm, together with a prior that weighs as much as two of them."""
    total, weight = _PRIOR_WEIGHT * prior**2, _PRIOR_WEIGHT
    if len(measurements) > 1:
        for index, left_out in enumerate(measurements):
            rest = [m for other, m in enumerate(measurements) if other != index]
            predicted = float(_features(left_out.workload) @ _fit(rest, thumb))
            total += math.log(left_out.step / predicted) ** 2
            weight += 1
    return math.sqrt(total / weight)
