"""Whether a gang that failed has lost a machine: its other workers often say so before Ray does.

When a machine goes, the workers on the others fail in their exchange within milliseconds; Ray knows
only after the machine has missed some health checks.
"""

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.worker_group import WorkerGroup

_PATIENCE_SECONDS = 10.0  # a machine that shuts down ends its workers first
_AGREEMENT_SECONDS = 60.0
_ANSWER_SECONDS = 2.0
_PAUSE_SECONDS = 0.5


class GangNodes(WorkerGroupCallback):
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
        self.note({worker.metadata.node_id for worker in worker_group.get_workers()})

    def note(self, nodes: set[str]) -> None:
        """The ids of the nodes that the workers lie on."""
        self._ours = set(nodes)

    def one_is_lost(self) -> bool:
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
