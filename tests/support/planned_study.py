"""A study that is planned but not trained."""

from pathlib import Path

from orchestrator.planning.estimate import Measurement
from orchestrator.planning.forecast import (
    Capacity,
    Forecaster,
    StudyForecast,
    priorities,
    workload,
)
from orchestrator.scheduling.policy import GangShape
from orchestrator.study.load import load_study
from orchestrator.study.resolve import resolve_trials
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study

STUDY = """\
study: planned
compare_to: strong
base:
  data: {dataset: DATASET, crop: [32, 48]}
  model: {backbone: dfnet1, channels: 8}
  training: {epochs: 10, batch: 6, precision: fp32}
  evaluation: {every: 4}
variants:
  strong: {set: {model: {flows: []}}}
  middle: {set: {model: {flows: [detail]}}}
  full: {set: {model: {supervision: [3, 4]}}}
seeds: [0, 1]
resources: {cpus_per_worker: 1, price_per_gpu_hour: 2, device: cpu}
limits: {gpu_hours: 0.5}
"""


def write_planned_study(directory: Path, dataset: Path) -> Path:
    """Write the study file and return its path."""
    path = directory / "study.yaml"
    path.write_text(STUDY.replace("DATASET", str(dataset)))
    return path


def resolved(file: Path) -> tuple[Study, list[ResolvedTrial]]:
    """Load a study file and resolve its trials for the CPU."""
    study = load_study(file)
    return study, resolve_trials(study.trials, "cpu", file.parent)


def timed(trial: ResolvedTrial, study: Study, step: float = 60.0) -> Measurement:
    """Return a measurement of `step` seconds per step, and 30 s each for validation and startup."""
    load = workload(trial, study.config.resources)
    return Measurement(load, "device", "fp32", "trial", step, 30.0, 30.0)


def forecast_of(study: Study, trials: list[ResolvedTrial], cpus: float = 2.0) -> StudyForecast:
    """Forecast all trials from the measurements of `timed`, on one node with this many CPUs."""
    measured = [timed(trial, study) for trial in trials]
    forecaster = Forecaster.of(trials, study.config.resources, measured, "cpu", "device")
    placement = GangShape.of(1, {"CPU": 1.0})
    capacity = Capacity(placement, 1.0, [{"CPU": cpus}], None, price=2.0)
    todo = {trial.identity for trial in trials}
    return forecaster.study(trials, todo, {}, priorities(study.config, trials), capacity)
