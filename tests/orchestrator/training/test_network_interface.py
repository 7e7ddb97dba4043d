"""The network interface of a trial's workers, and the environment variables that override it."""

import os
import socket

import psutil
import pytest
import ray

from orchestrator.training.network_interface import VARIABLES, interface_of, use_cluster_interface


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*VARIABLES, "NCCL_DEBUG"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def test_interface_of_each_local_address() -> None:
    for name, addresses in psutil.net_if_addrs().items():
        for entry in addresses:
            if entry.family == socket.AF_INET:
                assert interface_of(entry.address) == name
    assert interface_of("192.0.2.1") is None


def test_workers_use_rays_interface_and_log_warnings(
    environment: pytest.MonkeyPatch,
) -> None:
    use_cluster_interface()
    expected = interface_of(ray.util.get_node_ip_address())
    assert {os.environ.get(name) for name in VARIABLES} == {expected}
    assert os.environ["NCCL_DEBUG"] == "WARN"


def test_environment_variables_take_precedence(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("NCCL_SOCKET_IFNAME", "ib0")
    environment.setenv("NCCL_DEBUG", "INFO")
    use_cluster_interface()
    assert (os.environ["NCCL_SOCKET_IFNAME"], os.environ["NCCL_DEBUG"]) == ("ib0", "INFO")
