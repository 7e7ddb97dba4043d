"""Plans the placement of a study's trials on a cluster, or explains why not even one fits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from orchestrator.scheduling.policy import GangShape, Node, fit, workers_that_fit
from orchestrator.study.resources import ACCELERATOR, Resources
from pipelines.errors import UserError
from pipelines.machine import cores
from pipelines.wording import counted

# A resource of the head node only, so that no trial's driver is lost with a worker node.
DRIVER_RESOURCE = "trial_driver"

_DRIVER_CPUS = 0.01  # on clusters without that resource

_MANY = 1_000_000.0


class CapacityError(UserError, ValueError):
    """The requested resources exceed the largest size of the cluster."""


@dataclass(frozen=True)
class Placement:
    """How the workers of one trial are placed.

    per_worker: resources of one worker.
    concurrent: number of trials that run at a time on the cluster at its full size.
    max_concurrent: the study's own limit; None if it has none.
    shape: the trial's gang, with the fewest workers if a range is given.
    gpu_types: types of GPUs that the workers may get, as far as Ray knows them.
    """

    device: Literal["cpu", "cuda"]
    per_worker: dict[str, float]
    concurrent: int
    max_concurrent: int | None
    shape: GangShape
    gpu_types: tuple[str, ...] = ()


def this_machine() -> list[Node]:
    """Return the node of a cluster on this machine, without starting it.

    Its GPU is 0 if torch cannot use the machine's GPUs.
    """
    cpus = float(cores())
    return [{"CPU": cpus, "GPU": float(torch.cuda.device_count()), DRIVER_RESOURCE: _MANY}]


def driver_resources(offered: Mapping[str, float]) -> dict[str, float]:
    """Return the resources of a trial's driver, given the total resources of the cluster."""
    return {DRIVER_RESOURCE: 1.0} if DRIVER_RESOURCE in offered else {"CPU": _DRIVER_CPUS}


@dataclass(frozen=True)
class MachineType:
    """A type of machine that the cluster's autoscaler may start.

    offers: resources of one machine.
    max_count: maximum number of machines of this type.
    priority: of the autoscaler, higher first.
    """

    name: str
    offers: Mapping[str, float]
    max_count: int
    priority: int = 0

    def __str__(self) -> str:
        return f"{self.name} ({describe_resources(self.offers)}; {self.max_count} at most)"


def plan_placement(
    resources: Resources, nodes: Sequence[Node], machine_types: Sequence[MachineType] = ()
) -> Placement:
    """Choose the device, and the number of concurrent trials with whole gangs.

    nodes: of the cluster, at its full size.
    machine_types: that the cluster may start; for messages.

    Raises CapacityError if not even one gang fits.
    """
    offered = {name: sum(node.get(name, 0.0) for node in nodes) for node in nodes for name in node}
    device = resources.device
    if device == "auto":
        device = "cuda" if offered.get("GPU") else "cpu"
    if device == "cuda":
        _check_gpus(resources, nodes, machine_types)
    per_worker = resources.per_worker(device)
    # A trial of one worker is its own driver.
    driver = driver_resources(offered) if resources.most_workers > 1 else {}
    shape = GangShape.of(resources.fewest_workers, per_worker, driver)
    concurrent = _gangs_that_fit(shape, nodes)
    if concurrent == 0:
        raise CapacityError(_why_nothing_fits(resources, shape, nodes, offered, machine_types))
    max_concurrent = resources.concurrent_trials
    usable = [node for node in nodes if workers_that_fit(per_worker, [node])]
    gpu_types = gpu_types_of(usable) if device == "cuda" else []
    if resources.accelerator in gpu_types:
        gpu_types = [resources.accelerator]
    concurrent = min(concurrent, max_concurrent or concurrent)
    return Placement(device, per_worker, concurrent, max_concurrent, shape, tuple(gpu_types))


def gpu_types_of(nodes: Sequence[Node]) -> list[str]:
    """Return Ray's names for the types of GPUs of these nodes, as far as it knows them."""
    names = {name for node in nodes for name, amount in node.items() if amount}
    return sorted(n.removeprefix(ACCELERATOR) for n in names if n.startswith(ACCELERATOR))


def _check_gpus(
    resources: Resources, nodes: Sequence[Node], machine_types: Sequence[MachineType]
) -> None:
    if not any(node.get("GPU") for node in nodes):
        raise CapacityError(
            "resources.device is cuda, but the cluster has no GPU; use device: cpu or auto"
            + _may_start(machine_types)
        )
    if resources.gpus_per_worker < 1 and resources.most_workers > 1:
        raise CapacityError(
            f"resources.gpus_per_worker is {resources.gpus_per_worker:g} with "
            f"{resources.most_workers} workers, but NCCL refuses two workers of a trial on one "
            "GPU; use gpus_per_worker: 1, or workers: 1"
        )
    available = gpu_types_of(nodes)
    if resources.accelerator is not None and resources.accelerator not in available:
        types = f"it has {', '.join(available)}" if available else "Ray does not know its GPU types"
        raise CapacityError(
            f"resources.accelerator is {resources.accelerator}, but the cluster has no such GPU; "
            f"{types}" + _may_start(machine_types)
        )


def _why_nothing_fits(
    resources: Resources,
    shape: GangShape,
    nodes: Sequence[Node],
    offered: Mapping[str, float],
    machine_types: Sequence[MachineType],
) -> str:
    """Explain why not even one gang fits, and what would."""
    worker = dict(shape.worker)
    named = [name for name in worker if not name.startswith(ACCELERATOR)]
    gpu_type = f" on {resources.accelerator}" if len(named) < len(worker) else ""
    without_driver = fit(GangShape(0, shape.worker, shape.driver), nodes) or []
    most = workers_that_fit(worker, without_driver)
    at_least = "at least " if resources.most_workers > shape.workers else ""
    problem = (
        f"resources.workers is {at_least}{shape.workers} with "
        f"{' and '.join(f'{worker[name]:g} {name}' for name in named)} each{gpu_type}, but the "
        f"cluster has {' and '.join(f'{offered.get(name, 0):g} {name}' for name in named)}, enough "
        f"for at most {counted(most, 'such worker')}"
    )
    if most:
        return f"{problem}; use workers: {most} or fewer{_may_start(machine_types)}"
    usable = [node for node in nodes if all(node.get(name) for name in worker)] or nodes
    largest = max(usable, key=lambda node: [node.get(name, 0.0) for name in reversed(named)])
    offers = describe_resources({name: largest.get(name, 0.0) for name in named})
    return f"{problem}; the largest machine has {offers}{_may_start(machine_types)}"


def _may_start(machine_types: Sequence[MachineType]) -> str:
    if not machine_types:
        return ""
    return f". The cluster may start {', '.join(map(str, machine_types))}"


def _gangs_that_fit(shape: GangShape, nodes: Sequence[Node]) -> int:
    """Return how many whole gangs fit at the same time."""
    gangs = 0
    free = fit(shape, nodes)
    while free is not None:
        gangs += 1
        free = fit(shape, free)
    return gangs


def describe_resources(offers: Mapping[str, float]) -> str:
    """Describe the resources of a machine in words: `48 CPU, 4 GPU, L40S`."""
    return ", ".join(
        name.removeprefix(ACCELERATOR) if name.startswith(ACCELERATOR) else f"{amount:g} {name}"
        for name, amount in offers.items()
    )
