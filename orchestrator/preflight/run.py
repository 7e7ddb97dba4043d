"""Canaries on the cluster: each takes the trials' own way, the same gang of Ray Train, the same
devices, data and storage. It leaves no run and no checkpoint, only its times.
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
from orchestrator.study.resolve import ResolvedTrial
from orchestrator.training.diagnosis import diagnose
from orchestrator.training.failures import Cause, Failure
from orchestrator.training.job import Job
from orchestrator.training.tuner import run_jobs
from orchestrator.training.worker import DEVICE, prepare_worker
from pipelines.data.dataset import open_dataset
from pipelines.data.storage import locate
from pipelines.evaluation.inference import InferenceConfig

_AGAIN = "-again"  # ends the name of a second try


@dataclass(frozen=True)
class PreflightResult:
    """A canary's end. rehearsed: None where it failed, by `cause`, with `message`, at `stage`."""

    name: str
    rehearsed: PreflightTimings | None
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
    """Rehearse each of `cells` on the connected cluster, as its job would be run.

    storage: where the jobs' trainings would lie; a folder of it is used and removed. say: is told a
    line for each canary.
    """
    folder = f"canary-{os.getpid()}"
    jobs = [replace(job_of(trial), storage=storage.at(folder)) for trial in trials]
    events = _Events(say, stop_requested)
    try:
        run_jobs(
            jobs,
            max_concurrent,
            events,
            storage.local / folder,
            "canary",
            run=partial(_run, protocols=tuple(protocols)),
        )
    finally:
        shutil.rmtree(storage.local / folder, ignore_errors=True)
        if storage.is_remote:
            left = locate(storage.at(folder))
            left.filesystem.delete_dir_contents(left.path, missing_dir_ok=True)
    return events.sung


def _run(job: Job, protocols: Sequence[InferenceConfig]) -> dict[str, Any]:
    """Drive a canary's gang, as `training.trial.run_trial` does a trial's: once more where it
    was lost, which says nothing of the experiment yet."""
    first, failure = _attempt(job, protocols)
    if failure is None or not failure.retried:
        return first
    return _attempt(replace(job, run_name=f"{job.run_name}{_AGAIN}"), protocols)[0]


def _attempt(
    job: Job, protocols: Sequence[InferenceConfig]
) -> tuple[dict[str, Any], Failure | None]:
    """The outcome for `PreflightResult`, and the failure if it is one."""
    begun = time.perf_counter()
    trainer = TorchTrainer(
        _rehearse_worker,
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
        told = {"cause": failure.cause, "message": failure.message, "stage": failure.stage}
        return told, failure
    rehearsed = PreflightTimings(**metrics["rehearsed"])
    start = time.perf_counter() - begun - (rehearsed.whole - rehearsed.preparing)
    return {"rehearsed": rehearsed, "start": start, "device": metrics[DEVICE]}, None


def _rehearse_worker(config: dict[str, Any]) -> None:
    task = config["job"].task
    device = prepare_worker(task, config["job"].run_name)
    rank = ray.train.get_context().get_world_rank()
    name = config["job"].run_name.removesuffix(_AGAIN)
    directory = Path(tempfile.gettempdir(), f"canary-{name}-{rank}")
    shutil.rmtree(directory, ignore_errors=True)  # a worker that was killed has left it
    directory.mkdir(mode=0o700)
    try:
        rehearsed = smoke_test(
            task.experiment,
            open_dataset(task.dataset, task.fingerprint),
            device,
            task.cache and task.cache.here(),
            directory,
            config["protocols"],
        )
        metrics = {"rehearsed": asdict(rehearsed), DEVICE: worker_device(device.type, task.share)}
        checkpoint = None
        if rank == 0:
            checkpoint = ray.train.Checkpoint.from_directory(directory)
        ray.train.report(metrics, checkpoint=checkpoint)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class _Events:
    """The canaries' `tune_hooks.TrialEvents`."""

    def __init__(self, say: Callable[[str], None], stop_requested: Callable[[], bool]) -> None:
        self.sung: list[PreflightResult] = []
        self.stop_requested = stop_requested
        self._say = say

    def started(self, name: str) -> None:
        """Nothing to say before it has ended."""

    def epoch(self, name: str, metrics: dict[str, Any]) -> None:
        """A canary has no epochs."""

    def finished(self, name: str, outcome: dict[str, Any]) -> None:
        """It came back, or its gang said why not."""
        self._end(PreflightResult(name, outcome.pop("rehearsed", None), **outcome))

    def failed(self, name: str, cause: str) -> None:
        """Its driver itself failed."""
        self._end(PreflightResult(name, None, message=cause))

    def stopped_early(self, name: str) -> None:
        """Canaries have no rank."""

    def held(self, name: str) -> None:
        """A canary that is stopped has found nothing."""

    def hold_requested(self) -> bool:
        """Limits are for trials."""
        return False

    def may_start(self, pending: int) -> bool:
        """All canaries sing."""
        return True

    def unwanted(self, name: str) -> bool:
        """No canary is taken back."""
        return False

    def _end(self, sung: PreflightResult) -> None:
        self.sung.append(sung)
        if sung.rehearsed is None:
            self._say(f"canary  {sung.name}: {sung.cause}")
        else:
            took = sung.rehearsed
            self._say(f"canary  {sung.name}: {took.step:.3g} s a step, {took.memory_gib:.1f} GiB")
