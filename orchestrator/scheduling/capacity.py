"""What a cluster can hold of a study's trials: the gang of one, how many at once, or why none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from orchestrator.scheduling.policy import GangShape, Node, place, workers_that_fit
from orchestrator.study.resources import ACCELERATOR, Resources
from pipelines.errors import UserError
from pipelines.machine import cores

# Offered by a cluster's head alone, so that no trial's driver dies with a worker node.
DRIVER_RESOURCE = "trial_driver"

_DRIVER_CPUS = 0.01  # where the head does not offer it

_MANY = 1_000_000.0


class CapacityError(UserError, ValueError):
    """More was asked for than the cluster can ever hold; the message says what would fit."""


@dataclass(frozen=True)
class Placement:
    """How the workers of one trial are placed.

    per_worker: resources of one worker. concurrent: trials that fit at the same time on the largest
    cluster there may be. max_concurrent: the study's own bound, None without one. shape: of the
    trial's gang; that of the fewest workers where a range is given. kinds: of GPU that the workers
    may use, where Ray knows them.
    """

    device: Literal["cpu", "cuda"]
    per_worker: dict[str, float]
    concurrent: int
    max_concurrent: int | None
    shape: GangShape
    kinds: tuple[str, ...] = ()


def this_machine() -> list[Node]:
    """What a cluster of this machine alone will offer, without starting it."""
    cpus = float(cores())
    return [{"CPU": cpus, "GPU": float(torch.cuda.device_count()), DRIVER_RESOURCE: _MANY}]


def driver_resources(offered: Mapping[str, float]) -> dict[str, float]:
    """What a trial's driver holds, by what the cluster offers as a whole."""
    return {DRIVER_RESOURCE: 1.0} if DRIVER_RESOURCE in offered else {"CPU": _DRIVER_CPUS}


@dataclass(frozen=True)
class MachineType:
    """A kind of machine that a cluster may start: what each offers, how many there may be, and the
    autoscaler's preference, higher ones first."""

    name: str
    offers: Mapping[str, float]
    at_most: int
    priority: int = 0

    def __str__(self) -> str:
        return f"{self.name} ({amounts(self.offers)}; {self.at_most} at most)"


def plan_placement(
    resources: Resources, nodes: Sequence[Node], kinds: Sequence[MachineType] = ()
) -> Placement:
    """Decide device and concurrency for whole gangs.

    nodes: what each node of the cluster offers, or will; a worker lies on one of them. kinds: of
    machines that the cluster may start, for messages. Raises CapacityError where not even one gang
    fits.
    """
    offered = {name: sum(node.get(name, 0.0) for node in nodes) for node in nodes for name in node}
    device = resources.device
    if device == "auto":
        device = "cuda" if offered.get("GPU") else "cpu"
    if device == "cuda":
        _check_gpus(resources, nodes, kinds)
    per_worker = resources.per_worker(device)
    shape = GangShape.of(resources.fewest_workers, per_worker, driver_resources(offered))
    concurrent = _gangs_that_fit(shape, nodes)
    if concurrent == 0:
        raise CapacityError(_too_much(resources, shape, nodes, offered, kinds))
    max_concurrent = resources.concurrent_trials
    able = [node for node in nodes if workers_that_fit(per_worker, [node])]
    gpus = kinds_of_gpu(able) if device == "cuda" else []
    if resources.accelerator in gpus:
        gpus = [resources.accelerator]
    at_most = min(concurrent, max_concurrent or concurrent)
    return Placement(device, per_worker, at_most, max_concurrent, shape, tuple(gpus))


def kinds_of_gpu(nodes: Sequence[Node]) -> list[str]:
    """Ray's names for the GPUs of some nodes, where it tells them."""
    names = {name for node in nodes for name, amount in node.items() if amount}
    return sorted(n.removeprefix(ACCELERATOR) for n in names if n.startswith(ACCELERATOR))


def _check_gpus(resources: Resources, nodes: Sequence[Node], kinds: Sequence[MachineType]) -> None:
    if not any(node.get("GPU") for node in nodes):
        raise CapacityError(
            "resources.device is cuda, but the cluster has no GPU; use device: cpu or auto"
            + _machines(kinds)
        )
    if resources.gpus_per_worker < 1 and resources.most_workers > 1:
        raise CapacityError(
            f"resources.gpus_per_worker is {resources.gpus_per_worker:g} with "
            f"{resources.most_workers} workers, but NCCL refuses two workers of a trial on one "
            "GPU; use gpus_per_worker: 1, or workers: 1"
        )
    there = kinds_of_gpu(nodes)
    if resources.accelerator is not None and resources.accelerator not in there:
        known = f"there are {', '.join(there)}" if there else "Ray knows the kind of none there is"
        raise CapacityError(
            f"resources.accelerator is {resources.accelerator}, a kind of GPU that the cluster "
            f"does not have; {known}" + _machines(kinds)
        )


def _too_much(
    resources: Resources,
    shape: GangShape,
    nodes: Sequence[Node],
    offered: Mapping[str, float],
    kinds: Sequence[MachineType],
) -> str:
    """Why a gang fits nowhere, and what would."""
    asked = dict(shape.worker)
    named = [name for name in asked if not name.startswith(ACCELERATOR)]
    kind = f" on {resources.accelerator}" if len(named) < len(asked) else ""
    besides = place(GangShape(0, shape.worker, shape.driver), nodes) or []
    most = workers_that_fit(asked, besides)
    low = " at least" if resources.most_workers > shape.workers else ""
    told = (
        f"resources.workers is {shape.workers}{low} with "
        f"{' and '.join(f'{asked[name]:g} {name}' for name in named)} each{kind}, but the cluster "
        f"has {' and '.join(f'{offered.get(name, 0):g} {name}' for name in named)}, which holds "
        f"{most} such worker{'' if most == 1 else 's'} at most"
    )
    if most:
        return f"{told}; use workers: {most} or fewer{_machines(kinds)}"
    able = [node for node in nodes if all(node.get(name) for name in asked)] or nodes
    largest = max(able, key=lambda node: [node.get(name, 0.0) for name in reversed(named)])
    offers = amounts({name: largest.get(name, 0.0) for name in named})
    return f"{told}; the largest machine for one offers {offers}{_machines(kinds)}"


def _machines(kinds: Sequence[MachineType]) -> str:
    if not kinds:
        return ""
    return f". The cluster may start {', '.join(map(str, kinds))}"


def _gangs_that_fit(shape: GangShape, nodes: Sequence[Node]) -> int:
    """Whole gangs that run at once."""
    gangs = 0
    free = place(shape, nodes)
    while free is not None:
        gangs += 1
        free = place(shape, free)
    return gangs


def amounts(offers: Mapping[str, float]) -> str:
    """What a machine offers, in words: `48 CPU, 4 GPU, L40S`."""
    return ", ".join(
        name.removeprefix(ACCELERATOR) if name.startswith(ACCELERATOR) else f"{amount:g} {name}"
        for name, amount in offers.items()
    )
