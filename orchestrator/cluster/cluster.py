"""The Ray cluster of a command: one that is running, or one started on this machine when needed.

Ray takes seconds to import. It is imported only when a cluster is joined or started, so that
planning for this machine is fast.
"""

from collections.abc import Mapping
from typing import Any

from orchestrator.scheduling.capacity import CapacityError, MachineType, Placement, this_machine
from orchestrator.scheduling.devices import worker_device
from orchestrator.scheduling.launch import Launch
from orchestrator.scheduling.policy import Node
from orchestrator.study.resources import Resources
from pipelines.gpu import gpu_problem


class Cluster:
    """A cluster that is joined, or started on this machine, when it is first needed.

    address: of a running cluster; None to start one on this machine.
    environment: Ray's runtime environment of the worker processes.
    logs: directory of Ray's logs; empty before the start.
    """

    def __init__(self, address: str | None, environment: Mapping[str, Any]) -> None:
        self.logs = ""
        self._address = address
        self._environment = environment

    def start(self) -> None:
        """Join or start the cluster, unless that is done. Raises UnreachableError."""
        from orchestrator.cluster import connect

        if not self.logs:
            self.logs = connect.connect(self._address, self._environment)

    def check(self) -> list[str]:
        """Check that the nodes have what trials need; return warnings. Raises NodeError."""
        if self._address is None:
            return []
        from orchestrator.cluster.check_nodes import check_nodes

        self.start()
        return check_nodes()

    def close(self) -> None:
        """Leave the cluster, or end the one that was started on this machine."""
        if self.logs:
            from orchestrator.cluster import connect

            connect.disconnect()

    @property
    def is_local(self) -> bool:
        """Whether the cluster is this machine alone."""
        return self._address is None

    def offers(self, resources: Resources) -> tuple[list[Node], list[MachineType]]:
        """Return the cluster's nodes at its full size, and the machine types it may start for these
        workers. Raises UnreachableError, and CapacityError if torch cannot use this machine's
        GPUs."""
        if self._address is None:
            if resources.device != "cpu" and (problem := gpu_problem()):
                raise CapacityError(f"resources.device is {resources.device}: {problem}")
            return this_machine(), []
        from orchestrator.cluster import nodes

        self.start()
        return nodes.nodes_at_full_size(resources), nodes.machine_types(resources)

    def device(self, resources: Resources, placement: Placement) -> str:
        """Return the name of a worker's device, see `scheduling.devices`; empty if no node that has
        one is up."""
        if self._address is None:
            return worker_device(placement.device, resources.share(placement.device))
        from orchestrator.cluster import nodes

        return nodes.device_name(resources, placement)

    def has_room(self, placement: Placement) -> bool:
        """Whether a trial can start without waiting for machines."""
        if self._address is None:
            return True
        from orchestrator.cluster import nodes

        return nodes.have_room(placement)

    def launch(self, placement: Placement, trials: int) -> Launch | None:
        """Return the machines that would be started for this number of trials; None if the cluster
        does not grow."""
        if self._address is None:
            return None
        from orchestrator.cluster import nodes

        return nodes.launch(placement, trials)
