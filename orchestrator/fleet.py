"""Ray: joining a cluster or starting one here, what it offers, and running trials on it."""

import atexit
import logging
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError

import models
import orchestrator
import pipelines
from orchestrator import extensions, growth
from orchestrator.address import UnreachableError
from orchestrator.admission import Admission
from orchestrator.capacity import DRIVER_RESOURCE, Gang, driver_resources, this_machine
from orchestrator.elasticity import free_nodes
from orchestrator.hardware import worker_device
from orchestrator.limits import EarlyStopping
from orchestrator.machines import MachineType
from orchestrator.own_cluster import name_own_cluster
from orchestrator.policy import GangShape, Node, Waiting, place
from orchestrator.reachability import check_address
from orchestrator.resources import Resources
from orchestrator.trial import Job, TrialError, run_trial
from orchestrator.tune_hooks import (
    FAILURE,
    OUTCOME,
    Halving,
    Link,
    Relay,
    StopOnRequest,
    TrialEvents,
)

_ANSWER_SECONDS = 30.0
_SETUP_HOOK = f"{name_own_cluster.__module__}.{name_own_cluster.__name__}"

# Ray reads these where a process starts; none of them changes what is computed.
_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # reports pass once a poll; 2 s by default
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # or what a worker prints stands in its output twice
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # not every report of a search has an mIoU
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is the command's to handle
}
_PROJECT = (models, orchestrator, pipelines)
_LOCAL_SETTINGS = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one machine has no spot notices
}


def connect(address: str | None, runtime_environment: Mapping[str, Any]) -> str:
    """Join the Ray cluster at `address`, or start one on this machine. Returns where Ray logs.

    runtime_environment: what every worker process gets besides this project and the installed
    packages. Raises UnreachableError where no cluster answers.
    """
    if address is not None:
        check_address(address)
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    environment = {**runtime_environment, "worker_process_setup_hook": _SETUP_HOOK}
    options["runtime_env"] = environment
    if address is None:
        for key, value in _LOCAL_SETTINGS.items():
            os.environ.setdefault(key, value)
        [here] = this_machine()
        if not here["GPU"]:  # a process that may hold a GPU is never forked
            environment["py_executable"] = _warm_python()
        # The dashboard stays on: without it a stopped trial's gang is never freed.
        cpus = int(here["CPU"])
        context = ray.init(
            "local",  # or a cluster that somebody has started here would be joined
            num_cpus=cpus,
            resources={DRIVER_RESOURCE: here[DRIVER_RESOURCE]},
            include_dashboard=True,
            **options,
        )
    else:
        # The processes of a cluster that runs already do not inherit from this one, and its
        # machines may have other sources of this project than those whose version is recorded.
        own = extensions.runtime_environment({m.__name__: m for m in _PROJECT})
        sources = [*own["py_modules"], *runtime_environment.get("py_modules", [])]
        environment |= {"env_vars": dict(_SETTINGS), "py_modules": sources}
        try:
            context = ray.init(address=address, **options)
        except ConnectionError as error:
            raise UnreachableError(f"--address {address}: no Ray cluster ({error})") from None
    if callable(on_sigterm):
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray takes it, and ends the process by abort()
    return str(Path(context.address_info["session_dir"]) / "logs")


def disconnect() -> None:
    """Leave the cluster; one that `connect` started ends with all its processes."""
    ray.shutdown()


def _warm_python() -> str:
    """The command that stands in for `python` where Ray starts a worker."""
    directory = Path(tempfile.mkdtemp(prefix="warm-python-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    command = [sys.executable, "-S", "-I", str(Path(__file__).with_name("warm_python.py"))]
    return shlex.join([*command, str(directory)])


def nodes_at_most(resources: Resources) -> list[Node]:
    """What each node would offer, were the connected cluster as large as it may become for such
    workers."""
    config = growth.read_bootstrap_config()
    return growth.nodes_at_most(connected_nodes(), config, _needed(resources))


def machine_types(resources: Resources) -> list[MachineType]:
    """The kinds of machines that the connected cluster may start, best first for such workers; none
    where it stays as it is."""
    return growth.machine_types(growth.read_bootstrap_config(), _needed(resources))


def machines_asked_for(gang: Gang, trials: int) -> dict[str, int] | None:
    """How many machines of each kind the connected cluster would start for so many trials; None
    where it stays as it is."""
    config = growth.read_bootstrap_config()
    if config is None:
        return None
    gangs = [gang.shape] * min(trials, gang.concurrent)
    return growth.machines_asked_for(connected_nodes(), config, gangs)


def _needed(resources: Resources) -> list[str]:
    return list(resources.per_worker("cpu" if resources.device == "cpu" else "cuda"))


def connected_nodes() -> list[Node]:
    """What each node of the connected cluster offers."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def device_name(resources: Resources, gang: Gang) -> str:
    """What a worker computes on, as `orchestrator.hardware` names it: asked of a node of the
    connected cluster that has room for one. Empty where no node answers."""
    share = resources.share(gang.device)
    if place(GangShape.of(1, gang.per_worker), free_nodes()) is None:
        return ""  # no machine is started for a question
    cpus, gpus = gang.per_worker.get("CPU", 0.0), gang.per_worker.get("GPU", 0.0)
    others = {k: v for k, v in gang.per_worker.items() if k not in ("CPU", "GPU")}
    ask = ray.remote(num_cpus=cpus, num_gpus=gpus, resources=others)(worker_device)
    answer = ask.remote(gang.device, share)
    try:
        return str(ray.get(answer, timeout=_ANSWER_SECONDS))
    except RayError:
        ray.cancel(answer)
        return ""


def run_jobs(
    jobs: Sequence[Job],
    at_once: int | None,
    events: TrialEvents,
    directory: Path,
    name: str,
    early_stopping: EarlyStopping | None = None,
    run: Callable[[Job], dict[str, Any]] = run_trial,
    nodes: Callable[[], Sequence[Node]] | None = None,
) -> None:
    """Run all jobs with Ray Tune, as `orchestrator.policy` orders them, and tell `events` what
    happens.

    Returns when every job has ended, or when `events` wants no more and the running ones are
    stopped. One failing job leaves the others alone.

    at_once: most gangs together; as many as fit for None. directory: Tune's own files.
    early_stopping: gives trials up by the rank of their mIoU. run: what a job's driver does.
    nodes: what there is, or may come to be where more is asked for; the connected ones for None.
    """
    driver = driver_resources(ray.cluster_resources())

    def trainable(config: dict[str, Any]) -> None:
        try:
            outcome = run(replace(jobs[config["job"]], takes_room=config["last"]))
            if outcome:  # nothing, where it was told to stop before its end
                tune.report({OUTCOME: outcome})
        except Exception as error:
            cause = (
                str(error) if isinstance(error, TrialError) else f"{type(error).__name__}: {error}"
            )
            # Tune tells its callbacks that a trial failed, but not why.
            tune.report({FAILURE: cause})
            raise

    link = Link(events)
    waiting = [
        Waiting(
            job.name,
            GangShape.of(job.workers, job.resources, driver),
            job.expected_seconds,
            job.rank,
        )
        for job in jobs
    ]
    tuner = tune.Tuner(
        tune.with_resources(trainable, dict(driver)),
        tune_config=tune.TuneConfig(
            search_alg=Admission(waiting, nodes or connected_nodes, at_once, link.closed),
            scheduler=early_stopping and Halving(early_stopping, jobs),
            num_samples=len(jobs),
            max_concurrent_trials=len(jobs),  # the policy's bound is the one that counts
            # A trial that is stopped must take its process along, or its gang would go on in it.
            reuse_actors=early_stopping is None,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(directory),
            verbose=0,
            callbacks=[Relay(jobs, link)],
            stop=StopOnRequest(jobs, link),
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    tuner.fit()
