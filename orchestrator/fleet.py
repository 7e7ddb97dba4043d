"""The cluster: connecting or starting one here, what it can hold, and running trials on it."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import ray
import torch
from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from orchestrator import growth
from orchestrator.reachability import UnreachableError, check_address
from orchestrator.resources import Resources
from orchestrator.trial import Job, TrialError, run_trial

# Offered by a cluster's head alone, so that no trial's driver dies with a worker node.
DRIVER_RESOURCE = "trial_driver"
_MANY = 1_000_000.0
_FAILURE = "failure"
_DRIVER_CPUS = 0.01  # where the head does not offer it

# Ray reads these when it starts; none of them changes what is computed.
_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # reports pass once a poll; 2 s by default
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is the command's to handle
}
_LOCAL_SETTINGS = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one machine has no spot notices
}


class CapacityError(ValueError):
    """More was asked for than the cluster can ever hold; the message says what would fit."""


class TrialEvents(Protocol):
    """Who wants to know what happens to the trials; called in this process, one at a time."""

    def started(self, name: str) -> None: ...

    def epoch(self, name: str, metrics: dict[str, Any]) -> None: ...

    def finished(self, name: str, outcome: dict[str, Any]) -> None: ...

    def failed(self, name: str, cause: str) -> None: ...

    def stop_requested(self) -> bool: ...

    def unwanted(self, name: str) -> bool: ...


@dataclass(frozen=True)
class Gang:
    """How one trial's workers are placed, and how many such gangs run at once."""

    device: Literal["cpu", "cuda"]
    per_worker: dict[str, float]
    concurrent: int


def connect(address: str | None, runtime_environment: Mapping[str, object]) -> str:
    """Join the Ray cluster at `address`, or start one on this machine. Returns where Ray logs.

    runtime_environment: what every worker process gets besides the installed packages. Raises
    UnreachableError where no cluster answers.
    """
    if address is not None:
        check_address(address)
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if runtime_environment:
        options["runtime_env"] = dict(runtime_environment)
    if address is None:
        for key, value in _LOCAL_SETTINGS.items():
            os.environ.setdefault(key, value)
        # The dashboard stays on: without it a stopped trial's gang is never freed.
        cpus = int(this_machine()[0]["CPU"])
        context = ray.init(
            num_cpus=cpus, resources={DRIVER_RESOURCE: _MANY}, include_dashboard=True, **options
        )
    else:
        try:
            context = ray.init(address=address, **options)
        except ConnectionError as error:
            raise UnreachableError(f"--address {address}: no Ray cluster ({error})") from None
    return str(Path(context.address_info["session_dir"]) / "logs")


def disconnect() -> None:
    """Leave the cluster; one that `connect` started ends with all its processes."""
    ray.shutdown()


def plan_gang(resources: Resources, nodes: list[dict[str, float]]) -> Gang:
    """Decide device and concurrency for whole gangs.

    nodes: what each node of the cluster offers; a worker lies on one of them. Raises CapacityError
    where not even one gang fits.
    """
    offered = {name: sum(node.get(name, 0.0) for node in nodes) for node in nodes for name in node}
    gpus = offered.get("GPU", 0.0)
    device = resources.device
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    if device == "cuda" and not gpus:
        raise CapacityError(
            "resources.device is cuda, but the cluster has no GPU; use device: cpu or auto"
        )
    per_worker = resources.per_worker(device)
    driver = {} if DRIVER_RESOURCE in offered else {"CPU": _DRIVER_CPUS}
    concurrent = _gangs_that_fit(resources.workers, per_worker, driver, nodes)
    if concurrent == 0:
        most = _workers_that_fit(per_worker, nodes)
        asked = " and ".join(f"{value:g} {name}" for name, value in per_worker.items())
        has = " and ".join(f"{offered.get(name, 0):g} {name}" for name in per_worker)
        raise CapacityError(
            f"resources.workers is {resources.workers} with {asked} each, but the cluster has "
            f"{has}, which holds {most} such worker{'' if most == 1 else 's'} at most"
        )
    return Gang(device, per_worker, min(concurrent, resources.concurrent_trials or concurrent))


def this_machine() -> list[dict[str, float]]:
    """What a cluster of this machine alone will offer, without starting it."""
    cpus = float(len(os.sched_getaffinity(0)))
    return [{"CPU": cpus, "GPU": float(torch.cuda.device_count()), DRIVER_RESOURCE: _MANY}]


def nodes_at_most(resources: Resources) -> list[dict[str, float]]:
    """What each node would offer, were the connected cluster as large as it may become for such
    workers."""
    config = growth.read_bootstrap_config()
    needed = ["CPU"] if resources.device == "cpu" else ["CPU", "GPU"]
    return growth.nodes_at_most(connected_nodes(), config, needed)


def connected_nodes() -> list[dict[str, float]]:
    """What each node of the connected cluster offers."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def run_jobs(
    jobs: Sequence[Job], concurrent: int, events: TrialEvents, directory: Path, name: str
) -> None:
    """Run all jobs with Ray Tune, `concurrent` gangs at a time, and tell `events` what happens.

    Returns when every job has ended, or when `events.stop_requested()` and the running ones are
    stopped. One failing job leaves the others alone. directory: Tune's own files.
    """
    head = DRIVER_RESOURCE in ray.cluster_resources()
    resources = {DRIVER_RESOURCE: 1.0} if head else {"CPU": _DRIVER_CPUS}

    def trainable(config: dict[str, Any]) -> dict[str, Any]:
        try:
            return run_trial(jobs[config["job"]])
        except Exception as error:
            cause = (
                str(error) if isinstance(error, TrialError) else f"{type(error).__name__}: {error}"
            )
            # Tune tells its callbacks that a trial failed, but not why.
            tune.report({_FAILURE: cause})
            raise

    link = _Link(events)
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        param_space={"job": tune.grid_search(list(range(len(jobs))))},
        tune_config=tune.TuneConfig(max_concurrent_trials=concurrent, reuse_actors=True),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(directory),
            verbose=0,
            callbacks=[_Relay(jobs, link)],
            stop=_StopOnRequest(jobs, link),
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    tuner.fit()


class _Link:
    """The way back into this process. Tune writes its callbacks to a file; a link stays behind."""

    def __init__(self, events: TrialEvents) -> None:
        self.events = events

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _StopOnRequest(tune.Stopper):
    """Ends all trials once a stop was asked for, and those that nobody wants any more."""

    def __init__(self, jobs: Sequence[Job], link: _Link) -> None:
        self._jobs = jobs
        self._link = link

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        name = self._jobs[result["config"]["job"]].name
        return self._link.events.stop_requested() or self._link.events.unwanted(name)

    def stop_all(self) -> bool:
        return self._link.events.stop_requested()


class _Relay(tune.Callback):
    """Hands Tune's events on, in the study's own terms."""

    def __init__(self, jobs: Sequence[Job], link: _Link) -> None:
        self._jobs = jobs
        self._link = link
        self._causes: dict[str, str] = {}

    def _name(self, trial: TuneTrial) -> str:
        return self._jobs[trial.config["job"]].name

    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any
    ) -> None:
        self._link.events.started(self._name(trial))

    def on_trial_result(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        result: dict[str, Any],
        **_: Any,
    ) -> None:
        if _FAILURE in result:
            self._causes[trial.trial_id] = result[_FAILURE]
        elif "last_checkpoint" in result:
            self._link.events.finished(self._name(trial), result)
        elif "epoch" in result:
            self._link.events.epoch(self._name(trial), result)

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any
    ) -> None:
        cause = self._causes.get(trial.trial_id, "its process was lost; see Ray's logs")
        self._link.events.failed(self._name(trial), cause)


def _workers_that_fit(per_worker: dict[str, float], nodes: list[dict[str, float]]) -> int:
    return sum(
        min(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in per_worker.items())
        for node in nodes
    )


def _gangs_that_fit(
    workers: int,
    per_worker: dict[str, float],
    driver: dict[str, float],
    nodes: list[dict[str, float]],
) -> int:
    """Whole gangs that run at once, each with its driver placed first."""
    free = [dict(node) for node in nodes]

    def take(asked: dict[str, float]) -> bool:
        for node in free:
            if all(node.get(name, 0.0) + 1e-9 >= amount for name, amount in asked.items()):
                for name, amount in asked.items():
                    node[name] -= amount
                return True
        return False

    gangs = 0
    while all(take(asked) for asked in [driver, *[per_worker] * workers]):
        gangs += 1
    return gangs
