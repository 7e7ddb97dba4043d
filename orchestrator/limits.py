"""How much a study may cost, and when a search may give a trial up."""

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """What a study may use before it holds: each running trial ends at its next checkpoint, nothing
    new is started, and what was left out is said. Running the study again goes on.

    gpu_hours: hours of all GPUs together (of all CPU workers where there is no GPU), over all
        commands that worked on the study.
    wall_hours: hours from the moment a command starts to train.
    trials: trials that one command starts at most; those it has started are finished.
    failures: trials that may fail before a command holds.
    """

    __pydantic_config__ = {"extra": "forbid"}

    gpu_hours: float | None = None
    wall_hours: float | None = None
    trials: int | None = None
    failures: int | None = None

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{entry.name} must be above 0, received {value}")


@dataclass(frozen=True)
class EarlyStopping:
    """Successive halving (ASHA, Li et al., 2020): at each rung only the best go on. For studies of
    `kind: search` alone, because rows that were stopped by their rank make no fair table.

    grace_epochs: epochs that every trial gets, the first rung.
    reduction: one in so many goes on from each rung to the next, which lies so many times further.
    """

    __pydantic_config__ = {"extra": "forbid"}

    grace_epochs: int = 10
    reduction: int = 3

    def __post_init__(self) -> None:
        if self.grace_epochs < 1:
            raise ValueError(f"grace_epochs must be at least 1, received {self.grace_epochs}")
        if self.reduction < 2:
            raise ValueError(f"reduction must be at least 2, received {self.reduction}")
