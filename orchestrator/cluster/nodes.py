"""The nodes of the connected cluster: what they offer, and how many there may be."""

from collections.abc import Mapping

import ray
from ray._private.state import available_resources_per_node, state
from ray.exceptions import RayError

from orchestrator.cluster import autoscaler
from orchestrator.scheduling.capacity import MachineType, Placement
from orchestrator.scheduling.devices import worker_device
from orchestrator.scheduling.policy import GangShape, Node, fit
from orchestrator.study.resources import Resources

_ANSWER_SECONDS = 30.0


def free_nodes() -> list[Mapping[str, float]]:
    """What each node of the connected cluster has left now; without nodes that are being taken."""
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    alive -= set(state.get_draining_nodes())
    left = available_resources_per_node()
    return [left[node] for node in alive & left.keys()]


def nodes_at_full_size(resources: Resources) -> list[Node]:
    """What each node would offer, were the connected cluster as large as it may become for such
    workers."""
    config = autoscaler.read_bootstrap_config()
    return autoscaler.nodes_at_full_size(connected_nodes(), config, _needed(resources))


def machine_types(resources: Resources) -> list[MachineType]:
    """The kinds of machines that the connected cluster may start, best first for such workers; none
    where it stays as it is."""
    return autoscaler.machine_types(autoscaler.read_bootstrap_config(), _needed(resources))


def machines_to_launch(placement: Placement, trials: int) -> dict[str, int] | None:
    """How many machines of each kind the connected cluster would start for so many trials; None
    where it stays as it is."""
    config = autoscaler.read_bootstrap_config()
    if config is None:
        return None
    gangs = [placement.shape] * min(trials, placement.concurrent)
    return autoscaler.machines_to_launch(connected_nodes(), config, gangs)


def _needed(resources: Resources) -> list[str]:
    return list(resources.per_worker("cpu" if resources.device == "cpu" else "cuda"))


def connected_nodes() -> list[Node]:
    """What each node of the connected cluster offers."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def device_name(resources: Resources, placement: Placement) -> str:
    """What a worker computes on, as `scheduling.devices` names it: asked of a node of the
    connected cluster that has room for one. Empty where no node answers."""
    share = resources.share(placement.device)
    if fit(GangShape.of(1, placement.per_worker), free_nodes()) is None:
        return ""  # no machine is started for a question
    cpus, gpus = placement.per_worker.get("CPU", 0.0), placement.per_worker.get("GPU", 0.0)
    others = {k: v for k, v in placement.per_worker.items() if k not in ("CPU", "GPU")}
    ask = ray.remote(num_cpus=cpus, num_gpus=gpus, resources=others)(worker_device)
    answer = ask.remote(placement.device, share)
    try:
        return str(ray.get(answer, timeout=_ANSWER_SECONDS))
    except RayError:
        ray.cancel(answer)
        return ""
