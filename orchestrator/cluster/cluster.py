"""The cluster of a study's command: this machine's own, until there is something to train, or one
that runs already.

Ray takes seconds to import. It is imported where a cluster is joined or started, so that a plan for
this machine is there at once.
"""

from collections.abc import Mapping
from typing import Any

from orchestrator.scheduling.capacity import MachineType, Placement, this_machine
from orchestrator.scheduling.devices import worker_device
from orchestrator.scheduling.policy import Node
from orchestrator.study.resources import Resources


class Cluster:
    """A cluster that is joined, or started here, when it is first asked to work.

    address: of a cluster that runs already; None for this machine's own. environment: what every
    worker process gets besides the installed packages. logs: where Ray keeps its own; empty before
    the start.
    """

    def __init__(self, address: str | None, environment: Mapping[str, Any]) -> None:
        self.logs = ""
        self._address = address
        self._environment = environment

    def start(self) -> None:
        """Connect, or start one on this machine, unless that is done. Raises UnreachableError."""
        from orchestrator.cluster import connect

        if not self.logs:
            self.logs = connect.connect(self._address, self._environment)

    def close(self) -> None:
        """Leave the cluster, or end the one that was started here."""
        if self.logs:
            from orchestrator.cluster import connect

            connect.disconnect()

    def offers(self, resources: Resources) -> tuple[list[Node], list[MachineType]]:
        """What each node offers for such workers, were the cluster as large as it may become, and
        the kinds of machines it may start. Raises UnreachableError."""
        if self._address is None:
            return this_machine(), []
        from orchestrator.cluster import nodes

        self.start()
        return nodes.nodes_at_full_size(resources), nodes.machine_types(resources)

    def device(self, resources: Resources, placement: Placement) -> str:
        """What a worker computes on, as `scheduling.devices` names it; empty where no machine
        for one is there to be asked."""
        if self._address is None:
            return worker_device(placement.device, resources.share(placement.device))
        from orchestrator.cluster import nodes

        return nodes.device_name(resources, placement)

    def machines_to_launch(self, placement: Placement, trials: int) -> Mapping[str, int] | None:
        """How many machines of each kind would be started for so many trials; None where the
        cluster stays as it is."""
        if self._address is None:
            return None
        from orchestrator.cluster import nodes

        return nodes.machines_to_launch(placement, trials)
