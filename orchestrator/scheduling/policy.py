"""Decides which waiting trials to start now: whole gangs only, by priority, longest first.

The decision is a pure function of the waiting trials, the running trials and the nodes' resources.
Simulating it from one trial's end to the next gives the wall time of a study before any training.
"""

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

Node = Mapping[str, float]  # amounts of resources, by name

_SLACK = 1e-9  # so that fractions of a GPU add up to a whole one
# A trial that outlasts its estimate is expected to need another tenth of its elapsed time.
_OVERDUE = 0.1


@dataclass(frozen=True)
class GangShape:
    """The resources of a running trial: a driver and `workers` equal workers, each on one node.

    worker, driver: pairs of a resource's name and amount.
    """

    workers: int
    worker: tuple[tuple[str, float], ...]
    driver: tuple[tuple[str, float], ...] = ()

    @staticmethod
    def of(
        workers: int, worker: Mapping[str, float], driver: Mapping[str, float] | None = None
    ) -> "GangShape":
        return GangShape(workers, tuple(worker.items()), tuple((driver or {}).items()))


@dataclass(frozen=True)
class Waiting:
    """A trial that has not started.

    seconds: expected duration.
    priority: lower values start first.
    """

    name: str
    gang: GangShape
    seconds: float
    priority: int = 0


@dataclass(frozen=True)
class Running:
    """A trial that is running.

    seconds: expected duration.
    elapsed: seconds since its start.
    """

    gang: GangShape
    seconds: float
    elapsed: float

    @property
    def remaining(self) -> float:
        """Expected seconds until its end; never 0, because the estimate may be too short."""
        left = self.seconds - self.elapsed
        return left if left > 0 else _OVERDUE * self.elapsed


def in_order(trials: Iterable[Waiting]) -> list[Waiting]:
    """Sort by priority, then longest first, then in the given order."""
    return sorted(trials, key=lambda trial: (trial.priority, -trial.seconds))


def fit(gang: GangShape, free: Sequence[Node]) -> list[Node] | None:
    """Place the whole gang on `free`. Return the resources left, or None if it does not fit."""
    left = _FreeResources(free)
    return left.nodes if left.take(gang) else None


def workers_that_fit(worker: Mapping[str, float], nodes: Sequence[Node]) -> int:
    """Return how many workers with these resources fit, each on one node."""
    return sum(
        min(
            math.floor(node.get(name, 0.0) / _held(name, amount) + _SLACK)
            for name, amount in worker.items()
        )
        for node in nodes
    )


def _held(name: str, amount: float) -> float:
    """Return how much of a node's resource a worker holds. A part of a GPU is on one GPU, which has
    a whole number of such parts; the rest of it is of no use to other workers of the same size."""
    if name != "GPU" or not 0 < amount < 1:
        return amount
    return 1 / math.floor(1 / amount + _SLACK)


def left_over(nodes: Sequence[Node], gangs: Iterable[GangShape]) -> list[Node] | None:
    """Return the resources of `nodes` that `gangs` leave free, placing the largest workers first;
    None if the gangs do not all fit, as after the loss of a node."""
    left = _FreeResources(nodes)
    largest_first = sorted(gangs, key=lambda gang: -max((a for _, a in gang.worker), default=0.0))
    return left.nodes if all(left.take(gang) for gang in largest_first) else None


def choose(
    waiting: Iterable[Waiting],
    running: Sequence[Running],
    nodes: Sequence[Node],
    max_concurrent: int | None = None,
    gangs: int | None = None,
) -> list[Waiting]:
    """Return the trials to start now, out of `waiting`, which `in_order` has sorted.

    The first gang that does not fit gets a reservation for the time when enough running trials are
    expected to have ended. A later trial may start before it if it fits now, and either ends by
    that time or leaves enough resources for the reservation (EASY backfilling; Lifka, "The ANL/IBM
    SP scheduling system", 1995). This fills gaps without delaying a large gang forever.

    max_concurrent: maximum number of running trials. gangs: how many different gangs `waiting` has
    at most; once they are all too large, the rest of `waiting` is not looked at.
    """
    free = left_over(nodes, [trial.gang for trial in running])
    if free is None:
        return []
    chosen: list[Waiting] = []
    too_large: list[GangShape] = []
    reservation: _Reservation | None = None
    for trial in waiting:
        if len(running) + len(chosen) == max_concurrent:
            break
        if trial.gang in too_large:
            continue
        left = fit(trial.gang, free)
        if left is None:
            too_large.append(trial.gang)
            if len(too_large) == gangs:
                break
            if reservation is None:
                starting = [Running(other.gang, other.seconds, 0.0) for other in chosen]
                reservation = _reserve(trial.gang, [*running, *starting], nodes)
            continue
        if reservation is not None and trial.seconds > reservation.seconds:
            spare = fit(trial.gang, reservation.spare)
            if spare is None:
                continue
            reservation = _Reservation(reservation.seconds, spare)
        free = left
        chosen.append(trial)
    return chosen


def simulate(
    waiting: Iterable[Waiting], nodes: Sequence[Node], max_concurrent: int | None = None
) -> dict[str, tuple[float, float]]:
    """Return when each trial starts and ends, in seconds from now, if every estimate is right.

    Trials that do not fit even on the empty nodes are left out.
    """
    queue = in_order(waiting)
    gangs = len({trial.gang for trial in queue})
    started: set[int] = set()
    first = 0  # all trials of the queue before it have started
    times: dict[str, tuple[float, float]] = {}
    ends: list[tuple[float, int, Waiting, float]] = []
    now = 0.0
    while first < len(queue):
        running = [Running(trial.gang, trial.seconds, now - start) for _, _, trial, start in ends]
        left = (trial for trial in islice(queue, first, None) if id(trial) not in started)
        chosen = choose(left, running, nodes, max_concurrent, gangs)
        for trial in chosen:
            times[trial.name] = (now, now + trial.seconds)
            heapq.heappush(ends, (now + trial.seconds, len(times), trial, now))
        started |= {id(trial) for trial in chosen}
        while first < len(queue) and id(queue[first]) in started:
            first += 1
        if not ends:
            break
        now = heapq.heappop(ends)[0]
        while ends and ends[0][0] <= now:
            heapq.heappop(ends)
    return times


@dataclass(frozen=True)
class _Reservation:
    """A future start of a gang. seconds: from now. spare: resources left free then."""

    seconds: float
    spare: list[Node]


def _reserve(
    gang: GangShape, running: Iterable[Running], nodes: Sequence[Node]
) -> _Reservation | None:
    """Return the earliest start of the gang; None if it does not fit even on the empty nodes."""
    by_end = sorted(running, key=lambda trial: trial.remaining)
    for count, trial in enumerate(by_end, start=1):
        free = left_over(nodes, [other.gang for other in by_end[count:]])
        spare = None if free is None else fit(gang, free)
        if spare is not None:
            return _Reservation(trial.remaining, spare)
    return None


class _FreeResources:
    """The free resources of nodes on which gangs are placed by first fit."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes: list[Node] = list(nodes)
        # By request, the first node to try: resources only shrink, so earlier ones stay too small.
        self._starts: dict[tuple[tuple[str, float], ...], int] = {}

    def take(self, gang: GangShape) -> bool:
        """Place the whole gang; False if it does not fit, which leaves `nodes` inconsistent."""
        requests = [gang.driver, *[gang.worker] * gang.workers]
        return all(self._take(request) for request in requests)

    def _take(self, request: tuple[tuple[str, float], ...]) -> bool:
        for index in range(self._starts.get(request, 0), len(self.nodes)):
            node = self.nodes[index]
            held = [(name, _held(name, amount)) for name, amount in request]
            if all(node.get(name, 0.0) + _SLACK >= amount for name, amount in held):
                self._starts[request] = index
                left = dict(node)
                for name, amount in held:
                    left[name] -= amount
                self.nodes[index] = left
                return True
        return False
