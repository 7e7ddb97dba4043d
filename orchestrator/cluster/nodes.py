"""The nodes of the connected cluster: their resources now, and at the cluster's full size."""

from collections.abc import Mapping

import ray
from ray._private.state import available_resources_per_node, state
from ray.exceptions import RayError

from orchestrator.cluster import autoscaler
from orchestrator.scheduling.capacity import MachineType, Placement
from orchestrator.scheduling.devices import worker_device
from orchestrator.scheduling.launch import Launch
from orchestrator.scheduling.policy import GangShape, Node, fit
from orchestrator.study.resources import Resources
from pipelines.errors import UserError

_TASK_SECONDS = 30.0


def free_nodes() -> list[Mapping[str, float]]:
    """Return the free resources of each node, except nodes that are being drained."""
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    alive -= set(state.get_draining_nodes())
    free = available_resources_per_node()
    return [free[node] for node in alive & free.keys()]


def nodes_at_full_size(resources: Resources) -> list[Node]:
    """Return the nodes of the connected cluster at its full size, for these workers."""
    config = autoscaler.read_bootstrap_config()
    return autoscaler.nodes_at_full_size(connected_nodes(), config, resources.needed())


def machine_types(resources: Resources) -> list[MachineType]:
    """Return the machine types that the connected cluster may start, best for these workers first;
    empty if it does not grow."""
    return autoscaler.machine_types(autoscaler.read_bootstrap_config(), resources.needed())


def launch(placement: Placement, trials: int) -> Launch | None:
    """Return the machines that the connected cluster would start for this number of trials; None if
    it does not grow."""
    config = autoscaler.read_bootstrap_config()
    if config is None:
        return None
    return autoscaler.launch(connected_nodes(), config, placement, trials)


def have_room(placement: Placement) -> bool:
    """Whether all workers of a trial fit on the connected nodes now."""
    return fit(placement.shape, free_nodes()) is not None


def connected_nodes() -> list[Node]:
    """Return the total resources of each node."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def device_name(resources: Resources, placement: Placement) -> str:
    """Return the name of a worker's device, see `scheduling.devices`.

    Runs a task on a node that has the free resources of a worker; empty if there is none. Raises
    UserError if torch cannot use the GPUs of that node.
    """
    share = resources.share(placement.device)
    if fit(GangShape.of(1, placement.per_worker), free_nodes()) is None:
        return ""  # the task would make the autoscaler start a machine
    cpus, gpus = placement.per_worker.get("CPU", 0.0), placement.per_worker.get("GPU", 0.0)
    others = {k: v for k, v in placement.per_worker.items() if k not in ("CPU", "GPU")}
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, resources=others)(worker_device)
    reference = task.remote(placement.device, share)
    try:
        return str(ray.get(reference, timeout=_TASK_SECONDS))
    except RayError as error:
        cause = getattr(error, "cause", None)  # the exception that the task raised
        if isinstance(cause, UserError):
            raise UserError(f"on a node of the cluster, {cause}") from None
        ray.cancel(reference)
        return ""
