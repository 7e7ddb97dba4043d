"""Which network a gang's workers speak over.

gloo takes the address that a machine's own name stands for, which is a loopback address on many
machines (Debian's 127.0.1.1) and on some none at all; the workers of several machines then wait for
each other for ever. Ray knows by which address the machines of its cluster reach each other.
"""

import os
import socket

import psutil
import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

# Read by gloo and by NCCL when a process group is made.
VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def interface_of(address: str) -> str | None:
    """The name of this machine's network interface that has an address; None where none has."""
    for name, addresses in psutil.net_if_addrs().items():
        for one in addresses:
            if one.family in (socket.AF_INET, socket.AF_INET6) and one.address == address:
                return name
    return None


def use_cluster_interface() -> None:
    """Have process groups of this process use the interface that Ray uses, and say what goes wrong
    between machines. What the environment says already counts."""
    os.environ.setdefault("NCCL_DEBUG", "WARN")  # into the worker's output; silent by default
    name = interface_of(ray.util.get_node_ip_address())
    if name is not None:
        for variable in VARIABLES:
            os.environ.setdefault(variable, name)


class ClusterNetworkConfig(TorchConfig):
    """Ray Train's process group, over the network that connects the cluster's machines."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What sets the process group up."""
        return _Backend


class _Backend(_TorchBackend):
    def on_start(self, worker_group, backend_config):  # type: ignore[no-untyped-def]
        """Called once the workers' processes are there."""
        worker_group.execute(use_cluster_interface)
        super().on_start(worker_group, backend_config)
