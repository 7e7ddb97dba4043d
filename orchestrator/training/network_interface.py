"""Chooses the network interface over which a trial's workers communicate.

gloo resolves the host's own name, which on many hosts is a loopback address (Debian's 127.0.1.1)
and on some is unknown; workers on different hosts then wait for each other forever. So we use the
interface of the address by which Ray's nodes reach each other.
"""

import os
import socket

import psutil
import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

# Read by gloo and NCCL when a process group is created.
VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def interface_of(address: str) -> str | None:
    """Return the name of this machine's network interface with this address, or None."""
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if entry.family in (socket.AF_INET, socket.AF_INET6) and entry.address == address:
                return name
    return None


def use_cluster_interface() -> None:
    """Make process groups of this process use Ray's interface and log NCCL's warnings.

    Environment variables that are already set take precedence.
    """
    os.environ.setdefault("NCCL_DEBUG", "WARN")  # goes to the worker's log; silent by default
    name = interface_of(ray.util.get_node_ip_address())
    if name is not None:
        for variable in VARIABLES:
            os.environ.setdefault(variable, name)


class ClusterNetworkConfig(TorchConfig):
    """Sets up Ray Train's process group on the interface that connects the cluster's nodes."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """The class that sets up the process group."""
        return _Backend


class _Backend(_TorchBackend):
    def on_start(self, worker_group, backend_config):  # type: ignore[no-untyped-def]
        """Called when the workers' processes have started."""
        worker_group.execute(use_cluster_interface)
        super().on_start(worker_group, backend_config)
