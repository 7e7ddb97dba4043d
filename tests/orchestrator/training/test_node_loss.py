"""Telling a lost machine from a lost worker, by sockets that answer and sockets that are closed."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.training.diagnosis import NodeLossDetector


class Machines:
    """Nodes a and b as `ray.nodes` tells them; each answers while its socket is open."""

    def __init__(self) -> None:
        self.sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in "ab"}
        self.ports = {name: each.getsockname()[1] for name, each in self.sockets.items()}
        self.alive = dict.fromkeys("ab", True)
        self.asked = 0
        self.noticed_after: int | None = None

    def nodes(self) -> list[dict[str, Any]]:
        self.asked += 1
        if self.noticed_after is not None and self.asked > self.noticed_after:
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

    def gang(self, *names: str) -> NodeLossDetector:
        found = NodeLossDetector(self.nodes, patience=0.0)
        found.record(set(names))
        return found


@pytest.fixture
def machines() -> Iterator[Machines]:
    made = Machines()
    yield made
    for each in made.sockets.values():
        each.close()


def test_a_worker_that_died_on_a_machine_that_lives(machines: Machines) -> None:
    assert not machines.gang("a", "b").lost_a_node()


def test_a_machine_that_is_gone_is_waited_for_until_ray_knows(machines: Machines) -> None:
    machines.sockets["b"].close()
    machines.noticed_after = 3
    assert machines.gang("a", "b").lost_a_node()
    assert machines.asked == 4
    assert not machines.alive["b"]


def test_a_machine_that_ray_knows_is_gone(machines: Machines) -> None:
    machines.alive["b"] = False
    assert machines.gang("a", "b").lost_a_node()
    del machines.ports["a"]
    machines.ports["c"] = machines.ports["b"]
    machines.alive["c"] = True
    assert machines.gang("a").lost_a_node()  # forgotten altogether


def test_other_machines_do_not_matter(machines: Machines) -> None:
    machines.sockets["b"].close()
    assert not machines.gang("a").lost_a_node()


def test_the_only_machine_is_never_lost(machines: Machines) -> None:
    del machines.ports["b"]
    machines.sockets["a"].close()
    assert not machines.gang("a").lost_a_node()
