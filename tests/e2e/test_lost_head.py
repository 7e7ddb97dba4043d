"""Ray on a machine whose head is gone."""

import psutil
import pytest
from ray.cluster_utils import Cluster


@pytest.mark.slow
def test_ray_ends_where_its_head_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "3")  # Ray's own patience is 60
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "dashboard_port": 0})
    try:
        machine = cluster.add_node(num_cpus=1)
        raylet = machine.all_processes["raylet"][0].process
        assert psutil.Process(raylet.pid).name() == "raylet"  # by which name the service knows it
        cluster.head_node.kill_gcs_server()
        raylet.wait(timeout=300)
    finally:
        cluster.shutdown()
