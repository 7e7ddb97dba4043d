"""A trial that is being trained, and the time it has used."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.study.resolved import ResolvedTrial


@dataclass
class ActiveTrial:
    """A trial that is being trained.

    run_id: its run in the tracking store. logged: its epochs that are recorded or queued. seconds
    and hours: recorded so far: training time, and device hours of all its workers. workers: their
    current number; devices: GPUs per worker, 1 without GPUs; sizes: the numbers of workers that
    have trained its epochs. device: a worker's device, once reported; code: the version that
    trains it; started_at: when its processes started, by the monotonic clock, unless it resumed
    from a checkpoint.
    """

    trial: ResolvedTrial
    run_id: str
    logged: set[int]
    seconds: float
    hours: float
    workers: int
    devices: float
    device: str = ""
    code: str = ""
    started_at: float | None = None
    sizes: set[int] = field(default_factory=set)

    def time_metrics(self, report: Mapping[str, Any], hours_metric: str) -> dict[str, float]:
        """Add the time up to a report to `seconds` and `hours`; return both as metrics.

        report: its `seconds` are those of the whole training.
        """
        seconds = max(self.seconds, report.get("seconds", 0.0))
        self.hours += (seconds - self.seconds) * self.devices * self.workers / 3600
        self.seconds = seconds
        return {"trial/seconds": seconds, hours_metric: self.hours}

    def epoch_metrics(self, epoch: Mapping[str, float], hours_metric: str) -> dict[str, float]:
        """Return the metrics to record for an epoch, and mark the epoch as logged."""
        self.logged.add(int(epoch["epoch"]))
        own = {key: value for key, value in epoch.items() if key != "seconds"}
        return own | self.time_metrics(epoch, hours_metric)
