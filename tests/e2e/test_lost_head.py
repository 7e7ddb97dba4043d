"""Ray on a worker machine without trials, and after the head node is lost."""

import re

import psutil
import pytest
from ray.cluster_utils import Cluster

from tests.support import ROOT


@pytest.mark.slow
def test_raylet_exits_after_the_head_node_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "3")  # Ray's default is 60
    # The processes that the service of cluster.yaml ignores when it looks for trials.
    ignored = re.search(r"ray::\([^)]*\)", (ROOT / "cluster.yaml").read_text())
    assert ignored is not None
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "dashboard_port": 0})
    try:
        machine = cluster.add_node(num_cpus=1)
        raylet = machine.all_processes["raylet"][0].process
        titles = [child.cmdline()[0] for child in psutil.Process(raylet.pid).children()]
        busy = [title for title in titles if title.startswith("ray::")]
        assert not [title for title in busy if not re.match(ignored[0], title)]
        cluster.head_node.kill_gcs_server()
        raylet.wait(timeout=300)
    finally:
        cluster.shutdown()
