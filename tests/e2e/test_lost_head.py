"""Ray on a worker machine after the head node is lost."""

import psutil
import pytest
from ray.cluster_utils import Cluster


@pytest.mark.slow
def test_raylet_exits_after_the_head_node_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "3")  # Ray's default is 60
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "dashboard_port": 0})
    try:
        machine = cluster.add_node(num_cpus=1)
        raylet = machine.all_processes["raylet"][0].process
        assert psutil.Process(raylet.pid).name() == "raylet"  # the name that the service looks for
        cluster.head_node.kill_gcs_server()
        raylet.wait(timeout=300)
    finally:
        cluster.shutdown()
