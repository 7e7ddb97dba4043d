"""Ray: joining a cluster or starting one here, what it offers, and running trials on it."""

import atexit
import logging
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

import models
import orchestrator
import pipelines
from orchestrator.cluster.address import UnreachableError, check_address
from orchestrator.cluster.worker_setup import set_up_worker
from orchestrator.scheduling.capacity import (
    DRIVER_RESOURCE,
    this_machine,
)
from orchestrator.study import user_code

_SETUP_HOOK = f"{set_up_worker.__module__}.{set_up_worker.__name__}"


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
        # Never fork a process that may hold a GPU, nor one on macOS, where fork breaks libraries.
        if not here["GPU"] and sys.platform == "linux":
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
        own = user_code.runtime_environment({m.__name__: m for m in _PROJECT})
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
    command = [sys.executable, "-S", "-I", str(Path(__file__).with_name("fork_server.py"))]
    return shlex.join([*command, str(directory)])
