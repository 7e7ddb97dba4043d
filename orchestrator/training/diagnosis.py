"""Diagnoses why a trial failed: the cause of its workers' exceptions, or the loss of a node.

The cause decides whether the trial is retried, see `training.failures`.
"""

import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_args

import ray
import torch
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayActorError, RayError
from ray.train.v2._internal.exceptions import RayTrainError, WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2.api.exceptions import ControllerError, PreemptionError, WorkerGroupError
from torch.distributed import DistError

from orchestrator.training.failures import (
    Cause,
    EditedCodeError,
    Failure,
    PreemptedError,
    TrialError,
    WrongTrialError,
)
from pipelines.data.manifest import DatasetError
from pipelines.errors import is_disk_full, is_gpu_fault, is_out_of_memory
from pipelines.evaluation.inference import NonFiniteLogitsError
from pipelines.network.build import NetworkError
from pipelines.network.checkpoint import CheckpointError
from pipelines.training.distributed import RankMismatchError

_PATIENCE_SECONDS = 10.0  # a node that shuts down ends its workers first
_RAY_NOTICES_SECONDS = 60.0
_CONNECT_SECONDS = 2.0
_POLL_SECONDS = 0.5


def diagnose(error: BaseException) -> Failure:
    """Return the failure that explains an exception of a training or of `TorchTrainer.fit`: of its
    workers' failures, the one with the cause that `Cause` lists first."""
    if isinstance(error, TrialError):
        return error.failure
    failures = [
        Failure(classify(each), _message(each), next(iter(getattr(each, "__notes__", [])), ""))
        for each in _worker_exceptions(error)
    ]
    precedence = get_args(Cause)
    return min(failures, key=lambda failure: precedence.index(failure.cause))


def classify(error: BaseException) -> Cause:
    """Return the cause of one exception."""
    if isinstance(error, OutOfMemoryError) or is_out_of_memory(error):
        return "out of memory"
    if is_disk_full(error):
        return "disk full"
    if is_gpu_fault(error):
        return "GPU fault"
    text = str(error).lower()
    if isinstance(error, PreemptionError | PreemptedError) or (
        isinstance(error, RayActorError) and error.preempted
    ):
        return "preemption"
    if isinstance(error, EditedCodeError):
        return "edited code"
    # Ray mentions "node deaths" for killed processes, too.
    if isinstance(error, NodeDiedError) or (
        isinstance(error, ActorDiedError) and "node has died" in text
    ):
        return "lost node"
    if isinstance(error, RayError | RayTrainError | DistError | RankMismatchError) or (
        isinstance(error, RuntimeError) and ("gloo" in text or "nccl" in text)
    ):
        # Lost, failed because a peer was lost, or replaced by another trial's worker.
        return "lost worker"
    from pipelines.training.loop import NonFiniteLossError  # takes seconds, for torchmetrics

    if isinstance(error, NonFiniteLossError | NonFiniteLogitsError):
        return "non-finite loss"
    if isinstance(error, DatasetError):
        return "data"
    if isinstance(error, NetworkError):
        return "network"
    if isinstance(error, CheckpointError):
        return "checkpoint"
    return "error"


def _worker_exceptions(error: BaseException) -> Iterable[BaseException]:
    """Unwrap the workers' own exceptions from Ray's."""
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


def _message(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    # The messages of Ray and torch have many lines.
    message = lines[0] if isinstance(error, RayError | torch.OutOfMemoryError) else str(error)
    text = f"{type(error).__name__}: {message}".rstrip(": ")
    line = getattr(error, "user_line", "")
    return f"{text} ({line})" if line else text


class NodeLossDetector(WorkerGroupCallback):
    """Decides whether a trial lost a node, from the nodes of its last worker group."""

    def __init__(
        self,
        nodes: Callable[[], Sequence[Mapping[str, Any]]] = ray.nodes,
        patience: float = _PATIENCE_SECONDS,
    ) -> None:
        """nodes: returns the cluster's nodes like `ray.nodes`.
        patience: seconds to watch the nodes after a worker was lost.
        """
        self._nodes = nodes
        self._patience = patience
        self._node_ids: set[str] = set()

    def after_worker_group_start(self, worker_group: WorkerGroup) -> None:
        """Record the nodes on which Ray Train has placed the workers."""
        self.record({worker.metadata.node_id for worker in worker_group.get_workers()})

    def record(self, node_ids: set[str]) -> None:
        """Record the ids of the workers' nodes."""
        self._node_ids = set(node_ids)

    def lost_a_node(self) -> bool:
        """Whether one of the workers' nodes is lost, or is lost while they are watched.

        If so, Ray knows it too on return, and places no worker there. A cluster of a single node
        never loses it.
        """
        end = time.monotonic() + self._patience
        while True:
            nodes = {node["NodeID"]: node for node in self._nodes()}
            if len(nodes) < 2:
                return False
            ours = [nodes[node_id] for node_id in self._node_ids if node_id in nodes]
            if len(ours) < len(self._node_ids) or not all(node["Alive"] for node in ours):
                return True
            silent = {node["NodeID"] for node in ours if not _accepts_connections(node)}
            if silent:
                self._wait_until_ray_notices(silent)
                return True
            if time.monotonic() > end:
                return False
            time.sleep(_POLL_SECONDS)

    def _wait_until_ray_notices(self, lost: set[str]) -> None:
        end = time.monotonic() + _RAY_NOTICES_SECONDS
        while time.monotonic() < end:
            alive = {node["NodeID"] for node in self._nodes() if node["Alive"]}
            if not lost & alive:
                return
            time.sleep(_POLL_SECONDS)


def _accepts_connections(node: Mapping[str, Any]) -> bool:
    """Whether the node's raylet accepts connections."""
    address = (node["NodeManagerAddress"], node["NodeManagerPort"])
    try:
        with socket.create_connection(address, timeout=_CONNECT_SECONDS):
            return True
    except OSError:
        return False
