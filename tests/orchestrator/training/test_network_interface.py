"""Which network a gang's workers speak over, and what of it the environment decides."""

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


def test_the_interface_of_every_address_of_this_machine() -> None:
    for name, addresses in psutil.net_if_addrs().items():
        for one in addresses:
            if one.family == socket.AF_INET:
                assert interface_of(one.address) == name
    assert interface_of("192.0.2.1") is None


def test_workers_speak_over_rays_network_and_say_what_goes_wrong(
    environment: pytest.MonkeyPatch,
) -> None:
    use_cluster_interface()
    expected = interface_of(ray.util.get_node_ip_address())
    assert {os.environ.get(name) for name in VARIABLES} == {expected}
    assert os.environ["NCCL_DEBUG"] == "WARN"


def test_what_a_machine_was_told_counts(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("NCCL_SOCKET_IFNAME", "ib0")
    environment.setenv("NCCL_DEBUG", "INFO")
    use_cluster_interface()
    assert (os.environ["NCCL_SOCKET_IFNAME"], os.environ["NCCL_DEBUG"]) == ("ib0", "INFO")
