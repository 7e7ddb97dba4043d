"""What a command may still spend of its study's limits. Decisions only; the fleet acts on them."""

import time
from collections.abc import Callable, Mapping

from orchestrator.study.config import Limits


def recorded_hours(metrics: Mapping[str, float]) -> float:
    """Hours of all its GPUs (of its CPU workers) together, by the metrics of a trial's run."""
    return metrics.get("trial/gpu_hours", metrics.get("trial/worker_hours", 0.0))


class Budget:
    """Counts what trials use, against `limits`.

    devices: GPUs (CPU workers where there is none) that one trial starts with. spent_hours:
    device-hours that the study's trials used before this command. clock: seconds.
    """

    def __init__(
        self,
        limits: Limits,
        devices: float,
        spent_hours: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._devices = devices
        self._clock = clock
        self._opened = clock()
        self._spent_hours = spent_hours
        self._since: dict[str, float] = {}
        self._size: dict[str, float] = {}
        self._started = 0
        self._failed = 0
        self._left_out: str | None = None

    def started(self, name: str) -> None:
        """A trial's processes are being started."""
        self._since[name] = self._clock()
        self._size[name] = self._devices
        self._started += 1

    def worked(self, name: str, devices: float) -> None:
        """A trial reports, and holds `devices`: for all the time since its last report."""
        if name in self._since:
            self._size[name] = devices
            self._spent_hours += self._running_hours(name)
            self._since[name] = self._clock()

    def ended(self, name: str, failed: bool = False) -> None:
        """A trial holds its devices no longer."""
        if name in self._since:
            self._spent_hours += self._running_hours(name)
            del self._since[name]
        self._failed += failed

    @property
    def device_hours(self) -> float:
        """Spent by the study so far, running trials included."""
        return self._spent_hours + sum(map(self._running_hours, self._since))

    def _running_hours(self, name: str) -> float:
        """Device-hours of a running trial since its last report."""
        return self._size[name] * (self._clock() - self._since[name]) / 3600

    def hold_reason(self) -> str | None:
        """Why running trials must end at their next checkpoint; None while there is something
        left."""
        limits = self._limits
        if limits.gpu_hours is not None and self.device_hours >= limits.gpu_hours:
            return (
                f"limits.gpu_hours: {limits.gpu_hours:g} are spent by this study "
                f"({self.device_hours:.3g}); raise the limit to go on"
            )
        hours = (self._clock() - self._opened) / 3600
        if limits.wall_hours is not None and hours >= limits.wall_hours:
            return (
                f"limits.wall_hours: {limits.wall_hours:g} have passed since the command began; "
                "run it again to go on"
            )
        if limits.failures is not None and self._failed >= limits.failures:
            return (
                f"limits.failures: {self._failed} trial{' has' if self._failed == 1 else 's have'} "
                "failed; mend the cause, then run the command again to go on with the others"
            )
        return None

    def may_start(self, pending: int = 0) -> bool:
        """Whether a further trial is within the limits, besides `pending` about to start."""
        trials = self._limits.trials
        within = trials is None or self._started + pending < trials
        return self.hold_reason() is None and within

    def leave_out(self) -> None:
        """A trial is not started, or held before its end; the limit that is reached is why."""
        reason = self.hold_reason()
        if reason is None and not self.may_start():
            reason = (
                f"limits.trials: this command has started {self._started}; "
                "run it again to go on with the next"
            )
        self._left_out = self._left_out or reason

    def left_out_reason(self) -> str | None:
        """Why trials were not started or not finished; None where no limit was the reason. That a
        limit is reached is none as long as nothing is left out for it."""
        return self._left_out
