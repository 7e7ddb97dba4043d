"""Why a trial failed: from what its workers raised to a cause."""

from collections.abc import Iterable
from typing import get_args

import torch
from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
)
from ray.train.v2._internal.exceptions import RayTrainError, WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import ControllerError, PreemptionError, WorkerGroupError
from torch.distributed import DistError

from orchestrator.failures import Cause, Failure, WrongTrialError
from pipelines.agreement import DisagreementError
from pipelines.checkpoint import CheckpointError
from pipelines.dataset import DatasetError
from pipelines.inference import NonFiniteLogitsError
from pipelines.network import NetworkError
from pipelines.training import NonFiniteLossError

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


def diagnose(error: BaseException) -> Failure:
    """What ended a gang, from the exception that `TorchTrainer.fit` raised."""
    found = [
        Failure(classify(each), _sentence(each), next(iter(getattr(each, "__notes__", [])), ""))
        for each in _raised(error)
    ]
    precedence = get_args(Cause)
    return min(found, key=lambda failure: precedence.index(failure.cause))


def classify(error: BaseException) -> Cause:
    """The cause that one exception speaks of."""
    text = str(error).lower()
    if isinstance(error, torch.OutOfMemoryError | MemoryError | OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)
    ):
        return "out of memory"
    if isinstance(error, PreemptionError) or (isinstance(error, RayActorError) and error.preempted):
        return "preemption"
    # Of a process that was killed Ray speaks of "node deaths", too.
    if isinstance(error, NodeDiedError) or (
        isinstance(error, ActorDiedError) and "node has died" in text
    ):
        return "lost node"
    if isinstance(error, RayError | RayTrainError | DistError | DisagreementError) or (
        isinstance(error, RuntimeError) and ("gloo" in text or "nccl" in text)
    ):
        # Gone, or only the echo of another's going; or a stranger came in its place.
        return "lost worker"
    if isinstance(error, NonFiniteLossError | NonFiniteLogitsError):
        return "non-finite loss"
    if isinstance(error, DatasetError):
        return "data"
    if isinstance(error, NetworkError):
        return "network"
    if isinstance(error, CheckpointError):
        return "checkpoint"
    return "error"


def _raised(error: BaseException) -> Iterable[BaseException]:
    """The workers' own exceptions, out of what Ray wraps around them."""
    failures = [error]
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        failures = list(error.worker_failures.values())
    for failure in failures:
        inner: BaseException = getattr(failure, "_base_exc", failure)
        if isinstance(inner, ControllerError) and isinstance(
            inner.controller_failure, WrongTrialError
        ):
            inner = inner.controller_failure
        if isinstance(inner, WorkerHealthCheckFailedError):
            inner = inner.health_check_failure
        yield getattr(inner, "cause", None) or inner


def _sentence(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    # Ray's and torch's own accounts go on for many lines.
    message = lines[0] if isinstance(error, RayError | torch.OutOfMemoryError) else str(error)
    return f"{type(error).__name__}: {message}".rstrip(": ")
