"""Runs preflight trials on the Ray cluster.

Each uses the same workers, devices, data and storage as the trial it represents, but leaves neither
an MLflow run nor a checkpoint: only its times, or its error.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from orchestrator.cluster.nodes import free_nodes
from orchestrator.preflight.worker import PreflightTimings, smoke_test
from orchestrator.scheduling.devices import worker_device
from orchestrator.scheduling.policy import GangShape, Node, fit
from orchestrator.storage import Storage, unique_name
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.training.checkpoints import TrialCheckpoints
from orchestrator.training.failures import Cause, Failure
from orchestrator.training.group_worker import prepare_group_worker
from orchestrator.training.job import Job
from orchestrator.training.single import prepare_single_worker
from orchestrator.training.tuner import run_jobs
from orchestrator.training.worker import DEVICE, SCORE
from pipelines.data.dataset import open_dataset
from pipelines.data.storage import locate
from pipelines.evaluation.config import InferenceConfig


@dataclass(frozen=True)
class PreflightResult:
    """Result of the preflight run of one trial.

    name: of the trial.
    timings: None if it failed; `cause`, `message` and `stage` then say why.
    start: seconds spent outside of the worker, such as on starting processes; None if that includes
        a wait for machines.
    device: of the workers, named as in `scheduling.devices`.
    """

    name: str
    timings: PreflightTimings | None
    start: float | None = 0.0
    device: str = ""
    cause: Cause = "error"
    message: str = ""
    stage: str = ""


def run_preflight(
    trials: Sequence[ResolvedTrial],
    job_of: Callable[[ResolvedTrial, str], Job],
    protocols: Collection[InferenceConfig],
    max_concurrent: int | None,
    storage: Storage,
    say: Callable[[str], None],
    stop_requested: Callable[[], bool],
    nodes: Callable[[], Sequence[Node]] | None = None,
) -> list[PreflightResult]:
    """Run a few steps of each of `trials` on the connected cluster.

    job_of: returns the job that would train a trial under a run id.
    protocols: evaluation protocols of the study besides the experiments' own.
    max_concurrent: maximum number of concurrent trials; None for no limit.
    storage: of the trials; a temporary folder in it is used.
    say: prints a line for each trial.
    nodes: see `run_jobs`.
    """
    folder = f"preflight-{unique_name()}"
    # A second attempt if a worker was lost, because the experiment may be fine.
    jobs = [
        replace(job_of(trial, folder), storage=storage.at(folder), retries=1) for trial in trials
    ]
    events = _Events(say, stop_requested)
    try:
        run_jobs(
            jobs,
            max_concurrent,
            events,
            storage.local / folder,
            "preflight",
            run=partial(_run, protocols=tuple(protocols)),
            nodes=nodes,
        )
    finally:
        shutil.rmtree(storage.local / folder, ignore_errors=True)
        if storage.is_remote:
            location = locate(storage.at(folder))
            location.filesystem.delete_dir_contents(location.path, missing_dir_ok=True)
    return events.results


def _run(job: Job, protocols: Sequence[InferenceConfig]) -> dict[str, Any]:
    """Return the keyword arguments of the `PreflightResult` of a job, except `name`."""
    begun = time.perf_counter()
    # The process of a single worker has not started before its machine.
    waits = not job.single_worker and fit(_workers(job), free_nodes()) is None
    if job.single_worker:
        device = prepare_single_worker(job)
        checkpoints = TrialCheckpoints(job)
        metrics = _smoke_test(job, 0, device, protocols, checkpoints.add)
    else:
        metrics = _run_group(job, protocols)
    timings = PreflightTimings(**metrics["timings"])
    start = time.perf_counter() - begun - (timings.whole - timings.preparing)
    return {"timings": timings, "start": None if waits else start, "device": metrics[DEVICE]}


def _workers(job: Job) -> GangShape:
    return GangShape.of(job.workers, job.resources)


def _run_group(job: Job, protocols: Sequence[InferenceConfig]) -> dict[str, Any]:
    trainer = TorchTrainer(
        _group_worker,
        train_loop_config={"job": job, "protocols": protocols},
        scaling_config=ScalingConfig(
            num_workers=job.workers, use_gpu=job.use_gpu, resources_per_worker=job.resources
        ),
        run_config=RunConfig(
            name=_group_run(job),
            storage_path=job.storage,
            failure_config=FailureConfig(max_failures=0),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    return dict(trainer.fit().metrics or {})


def _group_run(job: Job) -> str:
    """Return the name of an attempt's Ray Train run; Ray would resume one of the same name."""
    return f"{job.run_name}-{job.attempt}"


def _group_worker(config: dict[str, Any]) -> None:
    job: Job = config["job"]
    device = prepare_group_worker(job.task, _group_run(job))
    rank = ray.train.get_context().get_world_rank()

    def store(directory: Path, metrics: dict[str, Any]) -> None:
        checkpoint = ray.train.Checkpoint.from_directory(directory) if rank == 0 else None
        ray.train.report(metrics, checkpoint=checkpoint)

    _smoke_test(job, rank, device, config["protocols"], store)


def _smoke_test(
    job: Job,
    rank: int,
    device: torch.device,
    protocols: Sequence[InferenceConfig],
    store: Callable[[Path, dict[str, Any]], None],
) -> dict[str, Any]:
    """Return the metrics of the run, after `store` has stored them with its checkpoint."""
    task = job.task
    directory = Path(tempfile.gettempdir(), f"preflight-{job.run_name}-{rank}")
    shutil.rmtree(directory, ignore_errors=True)  # left by a killed worker of the first attempt
    directory.mkdir(mode=0o700)
    try:
        timings = smoke_test(
            task.experiment,
            open_dataset(task.dataset, task.fingerprint),
            device,
            task.cache and task.cache.expanded(),
            directory,
            protocols,
        )
        metrics = {"timings": asdict(timings), DEVICE: worker_device(device.type, task.share)}
        store(directory, {**metrics, SCORE: 0.0})
        return metrics
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class _Events:
    """Collects the results; implements `training.events.TrialEvents`."""

    def __init__(self, say: Callable[[str], None], stop_requested: Callable[[], bool]) -> None:
        self.results: list[PreflightResult] = []
        self.stop_requested = stop_requested
        self._say = say

    def started(self, name: str) -> None:
        """Print nothing until the run has ended."""

    def notice(self, name: str, message: str) -> None:
        """Preflight runs resume from nothing, so they have no notices."""

    def checkpoint(self, name: str, metrics: dict[str, Any]) -> None:
        """Preflight runs store no checkpoints within an epoch."""

    def epoch(self, name: str, metrics: dict[str, Any]) -> None:
        """Preflight runs have no epochs."""

    def finished(self, name: str, outcome: dict[str, Any]) -> None:
        """The run succeeded."""
        self._end(PreflightResult(name, **outcome))

    def failed(self, name: str, failure: Failure) -> None:
        """The run failed."""
        self._end(PreflightResult(name, None, **asdict(failure)))

    def interrupted(self, name: str) -> None:
        """Do nothing: a preflight run is repeated."""

    def stopped_early(self, name: str) -> None:
        """Preflight runs are not stopped early."""

    def paused(self, name: str) -> None:
        """A stopped preflight run has no result."""

    def pause_requested(self) -> bool:
        """A pause ends preflight runs at once, by `stop_requested`."""
        return False

    def may_start(self, pending: int) -> bool:
        """Preflight runs are not the trials that limits count."""
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
