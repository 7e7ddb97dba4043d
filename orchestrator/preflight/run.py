"""Runs preflight trials on the Ray cluster.

Each uses the same workers, devices, data and storage as the trial it stands for, but leaves neither
an MLflow run nor a checkpoint: only its times, or its error.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from orchestrator.preflight.worker import PreflightTimings, smoke_test
from orchestrator.scheduling.devices import worker_device
from orchestrator.storage import Storage
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.training.diagnosis import diagnose
from orchestrator.training.failures import Cause, Failure
from orchestrator.training.job import Job
from orchestrator.training.tuner import run_jobs
from orchestrator.training.worker import DEVICE, prepare_worker
from pipelines.data.dataset import open_dataset
from pipelines.data.storage import locate
from pipelines.evaluation.config import InferenceConfig

_RETRY = "-again"  # suffix of the run name of a second attempt


@dataclass(frozen=True)
class PreflightResult:
    """Result of the preflight run of one trial.

    name: of the trial.
    timings: None if it failed; `cause`, `message` and `stage` then say why.
    start: seconds spent outside of the worker, such as on starting processes.
    device: of the workers, named as in `scheduling.devices`.
    """

    name: str
    timings: PreflightTimings | None
    start: float = 0.0
    device: str = ""
    cause: Cause = "error"
    message: str = ""
    stage: str = ""


def run_preflight(
    trials: Sequence[ResolvedTrial],
    job_of: Callable[[ResolvedTrial], Job],
    protocols: Collection[InferenceConfig],
    max_concurrent: int | None,
    storage: Storage,
    say: Callable[[str], None],
    stop_requested: Callable[[], bool],
) -> list[PreflightResult]:
    """Run a few steps of each of `trials` on the connected cluster.

    job_of: returns the job that would train a trial.
    protocols: evaluation protocols of the study besides the experiments' own.
    max_concurrent: maximum number of concurrent trials; None for no limit.
    storage: of the trials; a temporary folder in it is used.
    say: prints a line for each trial.
    """
    folder = f"preflight-{os.getpid()}"
    jobs = [replace(job_of(trial), storage=storage.at(folder)) for trial in trials]
    events = _Events(say, stop_requested)
    try:
        run_jobs(
            jobs,
            max_concurrent,
            events,
            storage.local / folder,
            "preflight",
            run=partial(_run, protocols=tuple(protocols)),
        )
    finally:
        shutil.rmtree(storage.local / folder, ignore_errors=True)
        if storage.is_remote:
            location = locate(storage.at(folder))
            location.filesystem.delete_dir_contents(location.path, missing_dir_ok=True)
    return events.results


def _run(job: Job, protocols: Sequence[InferenceConfig]) -> dict[str, Any]:
    """Run a job's workers, and once more if a worker or node was lost, because the experiment may
    be fine."""
    outcome, failure = _attempt(job, protocols)
    if failure is None or not failure.retryable:
        return outcome
    return _attempt(replace(job, run_name=f"{job.run_name}{_RETRY}"), protocols)[0]


def _attempt(
    job: Job, protocols: Sequence[InferenceConfig]
) -> tuple[dict[str, Any], Failure | None]:
    """Return the keyword arguments of `PreflightResult` except `name`, and the failure, if any."""
    begun = time.perf_counter()
    trainer = TorchTrainer(
        _preflight_worker,
        train_loop_config={"job": job, "protocols": protocols},
        scaling_config=ScalingConfig(
            num_workers=job.workers, use_gpu=job.use_gpu, resources_per_worker=job.resources
        ),
        run_config=RunConfig(
            name=job.run_name,
            storage_path=job.storage,
            failure_config=FailureConfig(max_failures=0),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    try:
        metrics = trainer.fit().metrics
    except TrainingFailedError as error:
        failure = diagnose(error)
        return asdict(failure), failure
    timings = PreflightTimings(**metrics["timings"])
    start = time.perf_counter() - begun - (timings.whole - timings.preparing)
    return {"timings": timings, "start": start, "device": metrics[DEVICE]}, None


def _preflight_worker(config: dict[str, Any]) -> None:
    task = config["job"].task
    device = prepare_worker(task, config["job"].run_name)
    rank = ray.train.get_context().get_world_rank()
    name = config["job"].run_name.removesuffix(_RETRY)
    directory = Path(tempfile.gettempdir(), f"preflight-{name}-{rank}")
    shutil.rmtree(directory, ignore_errors=True)  # left by a killed worker of the first attempt
    directory.mkdir(mode=0o700)
    try:
        timings = smoke_test(
            task.experiment,
            open_dataset(task.dataset, task.fingerprint),
            device,
            task.cache and task.cache.expanded(),
            directory,
            config["protocols"],
        )
        metrics = {"timings": asdict(timings), DEVICE: worker_device(device.type, task.share)}
        checkpoint = None
        if rank == 0:
            checkpoint = ray.train.Checkpoint.from_directory(directory)
        ray.train.report(metrics, checkpoint=checkpoint)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class _Events:
    """Collects the results; implements `training.tuner.TrialEvents`."""

    def __init__(self, say: Callable[[str], None], stop_requested: Callable[[], bool]) -> None:
        self.results: list[PreflightResult] = []
        self.stop_requested = stop_requested
        self._say = say

    def started(self, name: str) -> None:
        """Print nothing until the run has ended."""

    def epoch(self, name: str, metrics: dict[str, Any]) -> None:
        """Preflight runs have no epochs."""

    def finished(self, name: str, outcome: dict[str, Any]) -> None:
        """The run succeeded, or its workers failed."""
        self._end(PreflightResult(name, outcome.pop("timings", None), **outcome))

    def failed(self, name: str, cause: str) -> None:
        """The driver failed."""
        self._end(PreflightResult(name, None, message=cause))

    def stopped_early(self, name: str) -> None:
        """Preflight runs are not stopped early."""

    def held(self, name: str) -> None:
        """A stopped preflight run has no result."""

    def hold_requested(self) -> bool:
        """Limits do not apply to preflight runs."""
        return False

    def may_start(self, pending: int) -> bool:
        """Limits do not apply to preflight runs."""
        return True

    def unwanted(self, name: str) -> bool:
        """Preflight runs have no MLflow run that could be deleted."""
        return False

    def _end(self, result: PreflightResult) -> None:
        self.results.append(result)
        summary: str = result.cause
        if result.timings is not None:
            timings = result.timings
            summary = f"{timings.step:.3g} s per step, {timings.memory_gib:.1f} GiB"
        self._say(f"{result.name}: {summary}")
