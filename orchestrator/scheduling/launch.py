"""What a cluster would start for a study, and what that costs."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class HourlyPrice:
    """The price of all machines that a study uses at the same time, including the head.

    dollars: per hour; None if the price of one of the machines is unknown.
    basis: the machines and the source of their prices, or the machines without a known price.
    unused_hours: that each machine runs before and after its trials, at most.
    """

    dollars: float | None
    basis: str
    unused_hours: float

    def bound(self, hours: float) -> float | None:
        """Return the most that these machines cost if their trials take `hours`."""
        return None if self.dollars is None else self.dollars * (hours + self.unused_hours)


@dataclass(frozen=True)
class Launch:
    """The machines that a cluster would start for a study.

    machines: number of each type, in addition to the connected machines.
    price: None if the cluster's file does not name machines of a cloud with known prices.
    obstacles: of the account, that would prevent the machines from starting.
    remarks: about what was checked.
    """

    machines: Mapping[str, int]
    price: HourlyPrice | None = None
    obstacles: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
