"""Whether trials fit on the nodes that are connected."""

import pytest

from orchestrator.cluster import nodes
from orchestrator.cluster.cluster import Cluster
from orchestrator.scheduling.capacity import plan_placement
from orchestrator.study.resources import Resources


@pytest.mark.parametrize(("machines", "has_room"), [(0, False), (1, False), (2, True)])
def test_probe_has_room_if_all_workers_of_a_trial_fit(
    machines: int, has_room: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, machine = {"trial_driver": 1000.0}, {"CPU": 4.0, "GPU": 1.0}
    placement = plan_placement(Resources(workers=2), [head, machine, machine])
    monkeypatch.setattr(nodes, "free_nodes", lambda: [head, *[machine] * machines])
    assert Cluster("auto", {}).has_room(placement) == has_room
