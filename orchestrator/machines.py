"""Kinds of machines, and what they offer."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.resources import ACCELERATOR


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


def amounts(offers: Mapping[str, float]) -> str:
    """What a machine offers, in words: `48 CPU, 4 GPU, L40S`."""
    return ", ".join(
        name.removeprefix(ACCELERATOR) if name.startswith(ACCELERATOR) else f"{amount:g} {name}"
        for name, amount in offers.items()
    )
