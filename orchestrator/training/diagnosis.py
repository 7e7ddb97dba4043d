"""Why a trial failed: from what its workers raised to a cause."""

import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_args

import ray
import torch
from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayError,
)
from ray.train.v2._internal.exceptions import RayTrainError, WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2.api.exceptions import ControllerError, PreemptionError, WorkerGroupError
from torch.distributed import DistError

from orchestrator.training.failures import Cause, Failure, WrongTrialError
from pipelines.data.dataset import DatasetError
from pipelines.evaluation.inference import NonFiniteLogitsError
from pipelines.network.build import NetworkError
from pipelines.network.checkpoint import CheckpointError
from pipelines.training.distributed import RankMismatchError
from pipelines.training.loop import NonFiniteLossError

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")

_PATIENCE_SECONDS = 10.0  # a machine that shuts down ends its workers first

_AGREEMENT_SECONDS = 60.0

_ANSWER_SECONDS = 2.0

_PAUSE_SECONDS = 0.5


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
    if isinstance(error, RayError | RayTrainError | DistError | RankMismatchError) or (
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


class NodeLossDetector(WorkerGroupCallback):
    """Remembers the nodes of a trial's last worker group."""

    def __init__(
        self,
        nodes: Callable[[], Sequence[Mapping[str, Any]]] = ray.nodes,
        patience: float = _PATIENCE_SECONDS,
    ) -> None:
        """nodes: as `ray.nodes` tells them. patience: seconds for which nodes are watched."""
        self._nodes = nodes
        self._patience = patience
        self._ours: set[str] = set()

    def after_worker_group_start(self, worker_group: WorkerGroup) -> None:
        """Ray Train has placed the workers."""
        self.record({worker.metadata.node_id for worker in worker_group.get_workers()})

    def record(self, nodes: set[str]) -> None:
        """The ids of the nodes that the workers lie on."""
        self._ours = set(nodes)

    def lost_a_node(self) -> bool:
        """Whether one of them is gone, or goes within a moment; Ray knows it too on return, so that
        nothing is placed there. At once where there is but one machine."""
        end = time.monotonic() + self._patience
        while True:
            there = {node["NodeID"]: node for node in self._nodes()}
            if len(there) < 2:
                return False
            ours = [there[each] for each in self._ours if each in there]
            if len(ours) < len(self._ours) or not all(node["Alive"] for node in ours):
                return True
            silent = {node["NodeID"] for node in ours if not _answers(node)}
            if silent:
                self._wait_for_agreement(silent)
                return True
            if time.monotonic() > end:
                return False
            time.sleep(_PAUSE_SECONDS)

    def _wait_for_agreement(self, silent: set[str]) -> None:
        end = time.monotonic() + _AGREEMENT_SECONDS
        while time.monotonic() < end:
            alive = {node["NodeID"] for node in self._nodes() if node["Alive"]}
            if not silent & alive:
                return
            time.sleep(_PAUSE_SECONDS)


def _answers(node: Mapping[str, Any]) -> bool:
    """Whether the node's own process of Ray takes connections."""
    address = (node["NodeManagerAddress"], node["NodeManagerPort"])
    try:
        with socket.create_connection(address, timeout=_ANSWER_SECONDS):
            return True
    except OSError:
        return False
