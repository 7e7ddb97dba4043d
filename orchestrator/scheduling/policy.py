"""Which waiting trials to start now: whole gangs only, what matters first, then the longest.

A decision is a pure function of what waits, what runs and what the nodes offer. A simulation asks
it again after every end, which gives the wall time of a study before anything is trained.
"""

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Node = Mapping[str, float]

_SLACK = 1e-9  # fractions of a GPU add up to whole ones
# A trial that outlasts its estimate is expected to take this share of its time once more.
_OVERDUE = 0.1


@dataclass(frozen=True)
class GangShape:
    """What a trial holds while it runs: a driver and `workers` equal workers, each on one node.

    worker, driver: pairs of a resource's name and its amount.
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
    """A trial that is not started. rank: lower ones first; seconds: how long it is expected to
    take."""

    name: str
    gang: GangShape
    seconds: float
    rank: int = 0


@dataclass(frozen=True)
class Running:
    """A trial at work. seconds: how long it was expected to take; elapsed: seconds so far."""

    gang: GangShape
    seconds: float
    elapsed: float

    @property
    def remaining(self) -> float:
        """Seconds it is expected to go on, never 0: an estimate may be too short."""
        left = self.seconds - self.elapsed
        return left if left > 0 else _OVERDUE * self.elapsed


def in_order(trials: Iterable[Waiting]) -> list[Waiting]:
    """By rank, then the longest first, then as they came."""
    return sorted(trials, key=lambda trial: (trial.rank, -trial.seconds))


def place(gang: GangShape, free: Sequence[Node]) -> list[Node] | None:
    """What is left of `free` with the whole gang placed on it; None where it does not fit."""
    left = _Left(free)
    return left.nodes if left.take(gang) else None


def workers_that_fit(worker: Mapping[str, float], nodes: Sequence[Node]) -> int:
    """How many workers of such resources lie on what the nodes offer, each on one of them."""
    return sum(
        min(math.floor(node.get(name, 0.0) / amount + _SLACK) for name, amount in worker.items())
        for node in nodes
    )


def left_over(nodes: Sequence[Node], gangs: Iterable[GangShape]) -> list[Node] | None:
    """What `nodes` offer besides `gangs`; None where they cannot all lie there, as when a node was
    lost. Gangs with the largest workers are placed first."""
    left = _Left(nodes)
    largest_first = sorted(gangs, key=lambda gang: -max((a for _, a in gang.worker), default=0.0))
    return left.nodes if all(left.take(gang) for gang in largest_first) else None


def choose(
    waiting: Sequence[Waiting],
    running: Sequence[Running],
    nodes: Sequence[Node],
    max_concurrent: int | None = None,
) -> list[Waiting]:
    """The trials to start now, of `waiting` in the order of `in_order`.

    The first gang that does not fit gets a reservation: the moment at which enough of what runs is
    expected to have ended. Others may go before it where they fit, if they end by then or leave it
    its place (EASY backfilling; Lifka, "The ANL/IBM SP scheduling system", 1995). So the holes are
    filled, and a large gang is not put off for ever by small ones.

    max_concurrent: most trials that may run together.
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
        left = place(trial.gang, free)
        if left is None:
            too_large.append(trial.gang)
            if reservation is None:
                begun = [Running(other.gang, other.seconds, 0.0) for other in chosen]
                reservation = _reserve(trial.gang, [*running, *begun], nodes)
            continue
        if reservation is not None and trial.seconds > reservation.seconds:
            spare = place(trial.gang, reservation.spare)
            if spare is None:
                continue
            reservation = _Reservation(reservation.seconds, spare)
        free = left
        chosen.append(trial)
    return chosen


def simulate(
    waiting: Iterable[Waiting], nodes: Sequence[Node], max_concurrent: int | None = None
) -> dict[str, tuple[float, float]]:
    """When each trial would start and end, in seconds from now, if every estimate were right.

    A trial that fits on no empty cluster is left out.
    """
    queue = in_order(waiting)
    times: dict[str, tuple[float, float]] = {}
    ends: list[tuple[float, int, Waiting, float]] = []
    now = 0.0
    while queue:
        running = [Running(trial.gang, trial.seconds, now - began) for _, _, trial, began in ends]
        chosen = choose(queue, running, nodes, max_concurrent)
        for trial in chosen:
            times[trial.name] = (now, now + trial.seconds)
            heapq.heappush(ends, (now + trial.seconds, len(times), trial, now))
        started = {id(trial) for trial in chosen}
        queue = [trial for trial in queue if id(trial) not in started]
        if not ends:
            break
        now = heapq.heappop(ends)[0]
        while ends and ends[0][0] <= now:
            heapq.heappop(ends)
    return times


@dataclass(frozen=True)
class _Reservation:
    """In how many seconds a gang can start, and what is free besides it then."""

    seconds: float
    spare: list[Node]


def _reserve(
    gang: GangShape, running: Iterable[Running], nodes: Sequence[Node]
) -> _Reservation | None:
    """None where the gang does not fit on the empty nodes either."""
    by_end = sorted(running, key=lambda trial: trial.remaining)
    for count, trial in enumerate(by_end, start=1):
        free = left_over(nodes, [other.gang for other in by_end[count:]])
        spare = None if free is None else place(gang, free)
        if spare is not None:
            return _Reservation(trial.remaining, spare)
    return None


class _Left:
    """What is left of some nodes while gangs are placed on them, first fit."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes: list[Node] = list(nodes)
        # Nothing is given back, so a node once too small for a worker stays so.
        self._starts: dict[tuple[tuple[str, float], ...], int] = {}

    def take(self, gang: GangShape) -> bool:
        """Place the whole gang. False where it does not fit; what is left is of no use then."""
        return all(self._take(asked) for asked in [gang.driver, *[gang.worker] * gang.workers])

    def _take(self, asked: tuple[tuple[str, float], ...]) -> bool:
        for index in range(self._starts.get(asked, 0), len(self.nodes)):
            node = self.nodes[index]
            if all(node.get(name, 0.0) + _SLACK >= amount for name, amount in asked):
                self._starts[asked] = index
                left = dict(node)
                for name, amount in asked:
                    left[name] -= amount
                self.nodes[index] = left
                return True
        return False
