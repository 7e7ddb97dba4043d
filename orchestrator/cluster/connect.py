"""Joins a running Ray cluster, or starts one on this machine."""

import logging
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import ray
from ray._private import services
from ray.exceptions import AuthenticationError

from orchestrator.cluster.address import UnreachableError, check_address, given
from orchestrator.cluster.local_node import (
    local_options,
    low_limits,
    short_temporary_directory,
)
from orchestrator.cluster.worker_setup import set_up_worker
from orchestrator.scheduling.capacity import (
    DRIVER_RESOURCE,
    this_machine,
)
from orchestrator.study import user_code
from orchestrator.study.import_closure import PROJECT_PACKAGES
from pipelines import wording
from pipelines.errors import UserError
from pipelines.wording import option

_SETUP_HOOK = f"{set_up_worker.__module__}.{set_up_worker.__name__}"


logger = logging.getLogger(__name__)


_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}


class ClusterStartError(UserError, RuntimeError):
    """Ray did not start on this machine."""


class VersionMismatchError(UserError, RuntimeError):
    """The cluster has another version of Ray or Python than this command."""


# Ray reads these when a process starts; none of them affects a result.
_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # one report per poll; 2 s by default
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # it would duplicate the worker's output
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # custom networks read files relative to the command's folder
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # not every report of a search has an mIoU
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the command handles Ctrl-C
    # A stopped trial ends after its current step or validation. By default, Tune waits only 2 s for
    # that before it reuses the process, and then loses the next trial without an event.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "86400",
}

_LOCAL_SETTINGS = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a local machine is not preempted
    "RAY_prestart_worker_first_driver": "0",  # a process for each CPU, none of which a trial uses
}


def connect(address: str | None, runtime_environment: Mapping[str, Any]) -> str:
    """Join the Ray cluster at `address`, or start one on this machine. Return Ray's log directory.

    runtime_environment: of the worker processes, in addition to this project.

    Raises UnreachableError if no cluster answers, ClusterStartError if none could be started.
    """
    if address is not None:
        check_address(address)
    if ray.is_initialized():
        raise ClusterStartError(
            "this process already uses Ray, and a study needs a connection of its own; run it in "
            "another process, or before your own code uses Ray"
        )
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    environment = {**runtime_environment, "worker_process_setup_hook": _SETUP_HOOK}
    context = _start_here(environment) if address is None else _join(address, environment)
    if callable(on_sigterm):
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray's handler would abort() the process
    return str(Path(context.address_info["session_dir"]) / "logs")


def _start_here(environment: Mapping[str, Any]) -> Any:
    """Start a cluster on this machine. environment: the workers' `runtime_env`."""
    for key, value in _LOCAL_SETTINGS.items():
        os.environ.setdefault(key, value)
    [here] = this_machine()
    local = local_options()
    try:
        with own_sessions(), short_temporary_directory() as variables:
            if variables:
                environment = {**environment, "env_vars": variables}
            return ray.init(
                "local",  # otherwise Ray would join a cluster that runs on this machine
                num_cpus=int(here["CPU"]),
                resources={DRIVER_RESOURCE: here[DRIVER_RESOURCE]},
                # Without the dashboard, Ray never releases the workers of a stopped trial.
                include_dashboard=True,
                runtime_env=environment,
                **local,
                **_QUIET,
            )
    except Exception as error:  # Ray has no class of its own for this
        logger.exception("Ray did not start")
        ray.shutdown()
        if log := re.search(r"lines of (\S+) \(it contains", str(error)):
            cause = f"its dashboard did not answer; its output is in {log[1]}"
        else:
            cause = wording.cause(error)
        advice = "; ".join(low_limits()) or (
            "rerun the command when the machine is less busy, or use a running cluster with "
            f"{option('address')}"
        )
        raise ClusterStartError(f"Ray did not start on this machine ({cause}); {advice}") from error


def _join(address: str, environment: Mapping[str, Any]) -> Any:
    """Join the cluster at `address`. environment: the workers' `runtime_env`, without this project.

    Worker processes do not inherit this process's environment, and the cluster's machines may have
    sources of this project that differ from the recorded code version.
    """
    own = user_code.runtime_environment({name: import_module(name) for name in PROJECT_PACKAGES})
    sources = [*own["py_modules"], *environment.get("py_modules", [])]
    environment = {**environment, "env_vars": dict(_SETTINGS), "py_modules": sources}
    try:
        return ray.init(address=address, runtime_env=environment, **_QUIET)
    except (ConnectionError, AuthenticationError) as error:
        # Ray also fails to connect if the token is missing, or another one.
        raise UnreachableError(
            f"{given(address)}: the Ray cluster rejected the connection "
            f"({wording.cause(error)}). If it requires a token, copy that to ~/.ray/auth_token and "
            "set RAY_AUTH_MODE=token"
        ) from None
    except RuntimeError as error:
        if "Version mismatch" not in str(error):
            raise
        # Ray's message lists the versions of Ray and Python, cluster first.
        cluster_ray, cluster_python, own_ray, own_python = re.findall(
            r"(?:Ray|Python): (\S+)", str(error)
        )
        raise VersionMismatchError(
            f"{given(address)}: the cluster runs Ray {cluster_ray} on Python "
            f"{cluster_python}, this command Ray {own_ray} on Python {own_python}; both must "
            "be the same, including the patch version"
        ) from None


@contextmanager
def own_sessions() -> Iterator[None]:
    """Within this context, start Ray's processes in sessions of their own.

    `timeout` and a closed terminal signal the whole process group of the command. Ray's processes
    would end before the trials have written their checkpoints, and then Ray ends the command.
    """
    if sys.platform != "linux":  # elsewhere, Ray ends its processes by their group
        yield
        return
    popen = services.ConsolePopen
    services.ConsolePopen = partial(popen, start_new_session=True)
    try:
        yield
    finally:
        services.ConsolePopen = popen


def disconnect() -> None:
    """Leave the cluster; if `connect` started it, end all its processes."""
    ray.shutdown()
