"""What a cluster may grow to: the machines that its autoscaler is allowed to start.

`ray up` leaves its configuration on the head, where the study's own process runs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import GangResourceRequest

from orchestrator.scheduling.capacity import MachineType
from orchestrator.scheduling.policy import GangShape, Node, fit

BOOTSTRAP_CONFIG = Path("~/ray_bootstrap_config.yaml")


def read_bootstrap_config(path: Path = BOOTSTRAP_CONFIG) -> dict[str, Any] | None:
    """The configuration that `ray up` gave the autoscaler; None where there is none, as on a
    cluster that was started in another way."""
    try:
        content = yaml.safe_load(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return None
    return content if isinstance(content, dict) and "available_node_types" in content else None


def machine_types(
    config: Mapping[str, Any] | None, needed: Sequence[str] = ()
) -> list[MachineType]:
    """The kinds of machines beside the head, best first: those that offer all resources that are
    `needed`, by name, and of those the ones that the autoscaler prefers.

    config: of `ray up`. Kinds whose resources it leaves to be found out are not among them.
    """
    if config is None:
        return []
    allowed = int(config.get("max_workers", 0))
    found = [
        MachineType(
            name,
            {resource: float(amount) for resource, amount in one["resources"].items()},
            min(int(one.get("max_workers", allowed)), allowed),
            int(one.get("priority", 0)),
        )
        for name, one in config["available_node_types"].items()
        if name != config.get("head_node_type") and one.get("resources")
    ]

    def fitness(kind: MachineType) -> tuple[bool, int]:
        return all(kind.offers.get(resource) for resource in needed), kind.priority

    return sorted(found, key=fitness, reverse=True)


def nodes_at_full_size(
    connected: Sequence[Node], config: Mapping[str, Any] | None, needed: Sequence[str]
) -> list[Node]:
    """What each node would offer, were the cluster as large as it may become for work that needs
    resources of certain names.

    connected: what the nodes offer that are there now. config: of `ray up`; None means that the
    cluster stays as it is.

    No more nodes than `max_workers` beside the head, in the order of `machine_types`. Types whose
    resources the configuration leaves to be found out count by their connected nodes alone.
    """
    if config is None:
        return list(connected)
    allowed = int(config.get("max_workers", 0))
    to_come: list[Node] = []
    for kind in machine_types(config, needed):
        count = min(kind.max_count, allowed - len(to_come))
        to_come += [dict(kind.offers) for _ in range(count)]
    stays = _heads(connected, config)
    return stays + (to_come or [node for node in connected if node not in stays])


def machines_to_launch(
    connected: Sequence[Node], config: Mapping[str, Any], gangs: Sequence[GangShape]
) -> dict[str, int]:
    """How many machines of each kind the autoscaler would start for `gangs` that wait together, by
    Ray's own packer. Gangs that fit on what is connected need none."""
    free: list[Node] = list(connected)
    waiting = []
    for gang in gangs:
        left = fit(gang, free)
        if left is None:
            waiting.append(gang)
        else:
            free = left
    kinds = {
        kind.name: NodeTypeConfig(
            name=kind.name,
            min_worker_nodes=0,
            max_worker_nodes=kind.max_count,
            priority=kind.priority,
            resources=dict(kind.offers),
        )
        for kind in machine_types(config)
    }
    there = len(connected) - len(_heads(connected, config))
    reply = ResourceDemandScheduler(None).schedule(
        SchedulingRequest(
            node_type_configs=kinds,
            # More may be there than allowed: machines that are not `ray up`'s own name no head.
            max_num_nodes=max(0, int(config.get("max_workers", 0)) - there),
            disable_launch_config_check=True,
            gang_resource_requests=[
                GangResourceRequest(
                    requests=[ResourceRequestUtil.make(dict(gang.worker))] * gang.workers
                )
                for gang in waiting
            ],
        )
    )
    return {entry.instance_type: entry.count for entry in reply.to_launch}


def _heads(connected: Sequence[Node], config: Mapping[str, Any]) -> list[Node]:
    """Of the connected nodes the head; the others are among those that may be started."""
    head = config["available_node_types"].get(config.get("head_node_type"), {})
    offers = head.get("resources", {})
    return [node for node in connected if all(name in node for name in offers)] if offers else []
