"""Computes how far a cluster can grow: the machines that its autoscaler may start.

Reads the configuration that `ray up` writes on the head node, where the study's process runs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import GangResourceRequest

from orchestrator.cluster.aws_prices import hourly_price
from orchestrator.scheduling.capacity import MachineType, Placement
from orchestrator.scheduling.launch import Launch
from orchestrator.scheduling.policy import GangShape, Node, fit

BOOTSTRAP_CONFIG = Path("~/ray_bootstrap_config.yaml")


def read_bootstrap_config(path: Path = BOOTSTRAP_CONFIG) -> dict[str, Any] | None:
    """Return the configuration that `ray up` wrote; None if there is none, as on clusters started
    in another way."""
    try:
        content = yaml.safe_load(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return None
    return content if isinstance(content, dict) and "available_node_types" in content else None


def machine_types(
    config: Mapping[str, Any] | None, needed: Sequence[str] = ()
) -> list[MachineType]:
    """Return the machine types besides the head's: first those that have all resources in `needed`,
    then by the autoscaler's priority.

    config: of `ray up`. Types without `resources`, or with `max_workers: 0`, are omitted.
    """
    if config is None:
        return []
    max_workers = int(config.get("max_workers", 0))
    types = [
        MachineType(
            name,
            {resource: float(amount) for resource, amount in node_type["resources"].items()},
            min(int(node_type.get("max_workers", max_workers)), max_workers),
            int(node_type.get("priority", 0)),
        )
        for name, node_type in config["available_node_types"].items()
        if name != config.get("head_node_type") and node_type.get("resources")
    ]
    types = [machine for machine in types if machine.max_count > 0]

    def preference(machine: MachineType) -> tuple[bool, int]:
        return all(machine.offers.get(resource) for resource in needed), machine.priority

    return sorted(types, key=preference, reverse=True)


def nodes_at_full_size(
    connected: Sequence[Node], config: Mapping[str, Any] | None, needed: Sequence[str]
) -> list[Node]:
    """Return the nodes of the cluster at its full size, for work that needs certain resources.

    connected: nodes connected now.
    config: of `ray up`; None if the cluster does not grow.
    needed: names of the resources.

    At full size the cluster has the head and up to `max_workers` machines, in the order of
    `machine_types`. If the configuration states no resources, the connected nodes are returned.
    """
    if config is None:
        return list(connected)
    max_workers = int(config.get("max_workers", 0))
    workers: list[Node] = []
    for machine in machine_types(config, needed):
        count = min(machine.max_count, max_workers - len(workers))
        workers += [dict(machine.offers) for _ in range(count)]
    heads = _heads(connected, config)
    return heads + (workers or [node for node in connected if node not in heads])


def machines_to_launch(
    connected: Sequence[Node], config: Mapping[str, Any], gangs: Sequence[GangShape]
) -> dict[str, int]:
    """Return how many machines of each type the autoscaler would start for `gangs` that wait at the
    same time, computed by Ray's own scheduler. Gangs that fit on connected nodes need none."""
    free: list[Node] = list(connected)
    waiting = []
    for gang in gangs:
        left = fit(gang, free)
        if left is None:
            waiting.append(gang)
        else:
            free = left
    node_types = {
        machine.name: NodeTypeConfig(
            name=machine.name,
            min_worker_nodes=0,
            max_worker_nodes=machine.max_count,
            priority=machine.priority,
            resources=dict(machine.offers),
        )
        for machine in machine_types(config)
    }
    running = len(connected) - len(_heads(connected, config))
    reply = ResourceDemandScheduler(None).schedule(
        SchedulingRequest(
            node_type_configs=node_types,
            # Negative if the configuration does not tell the head from a worker.
            max_num_nodes=max(0, int(config.get("max_workers", 0)) - running),
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


def launch(
    connected: Sequence[Node], config: Mapping[str, Any], placement: Placement, trials: int
) -> Launch:
    """Return the machines that the cluster would start for this number of trials, and the price of
    all that the trials use."""
    gangs = [placement.shape] * min(trials, placement.concurrent)
    all_machines = machines_to_launch(_heads(connected, config), config, gangs)
    return Launch(machines_to_launch(connected, config, gangs), hourly_price(config, all_machines))


def _heads(connected: Sequence[Node], config: Mapping[str, Any]) -> list[Node]:
    """Return the head among the connected nodes, which offers all resources of the head's type. A
    node does not list a resource of which it offers none."""
    head = config["available_node_types"].get(config.get("head_node_type"), {})
    offers = [name for name, amount in head.get("resources", {}).items() if amount]
    return [node for node in connected if all(name in node for name in offers)] if offers else []
