"""Distinguishing a lost node from a lost worker, with open and closed sockets."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.training.diagnosis import NodeLossDetector


class Machines:
    """Nodes a and b as `ray.nodes` lists them; each answers while its socket is open."""

    def __init__(self) -> None:
        self.sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in "ab"}
        self.ports = {name: server.getsockname()[1] for name, server in self.sockets.items()}
        self.alive = dict.fromkeys("ab", True)
        self.calls = 0
        self.noticed_after_calls: int | None = None

    def nodes(self) -> list[dict[str, Any]]:
        self.calls += 1
        if self.noticed_after_calls is not None and self.calls > self.noticed_after_calls:
            self.alive["b"] = False
        return [
            {
                "NodeID": name,
                "Alive": self.alive[name],
                "NodeManagerAddress": "127.0.0.1",
                "NodeManagerPort": port,
            }
            for name, port in self.ports.items()
        ]

    def detector_for(self, *names: str) -> NodeLossDetector:
        detector = NodeLossDetector(self.nodes, patience=0.0)
        detector.record(set(names))
        return detector


@pytest.fixture
def machines() -> Iterator[Machines]:
    fake = Machines()
    yield fake
    for server in fake.sockets.values():
        server.close()


def test_dead_worker_on_a_live_node_is_not_a_lost_node(machines: Machines) -> None:
    assert not machines.detector_for("a", "b").lost_a_node()


def test_unreachable_node_is_awaited_until_ray_reports_it(machines: Machines) -> None:
    machines.sockets["b"].close()
    machines.noticed_after_calls = 3
    assert machines.detector_for("a", "b").lost_a_node()
    assert machines.calls == 4
    assert not machines.alive["b"]


def test_node_that_ray_reports_dead_is_lost(machines: Machines) -> None:
    machines.alive["b"] = False
    assert machines.detector_for("a", "b").lost_a_node()
    del machines.ports["a"]
    machines.ports["c"] = machines.ports["b"]
    machines.alive["c"] = True
    assert machines.detector_for("a").lost_a_node()  # Ray no longer lists the node


def test_nodes_of_other_trials_are_ignored(machines: Machines) -> None:
    machines.sockets["b"].close()
    assert not machines.detector_for("a").lost_a_node()


def test_only_node_is_never_lost(machines: Machines) -> None:
    del machines.ports["b"]
    machines.sockets["a"].close()
    assert not machines.detector_for("a").lost_a_node()
