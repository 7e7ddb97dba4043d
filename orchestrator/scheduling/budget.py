"""Compares what a command's trials have used with its study's limits; decisions only."""

import time
from collections.abc import Callable, Mapping

from orchestrator.study.config import Limits
from pipelines.wording import counted


def recorded_hours(metrics: Mapping[str, float]) -> float:
    """Return a trial's GPU-hours (or CPU worker-hours) from the metrics of its run."""
    return metrics.get("trial/gpu_hours", metrics.get("trial/worker_hours", 0.0))


class Budget:
    """Counts what trials use, against `limits`.

    devices: GPUs (or CPU workers, if not `on_gpu`) that one trial starts with.
    spent_hours: device-hours that the study's trials used before this command.
    clock: returns seconds. began: when the command began, by that clock; None for now.
    """

    def __init__(
        self,
        limits: Limits,
        devices: float,
        spent_hours: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        began: float | None = None,
        on_gpu: bool = True,
    ) -> None:
        self._limits = limits
        self._unit = "GPU-hours" if on_gpu else "worker-hours"
        self._devices = devices
        self._clock = clock
        self._began = clock() if began is None else began
        self._spent_hours = spent_hours
        self._since: dict[str, float] = {}
        self._size: dict[str, float] = {}
        self._started = 0
        self._failed = 0
        self._left_out: str | None = None
        self._pause_reason: str | None = None

    def started(self, name: str, waits: bool = False) -> None:
        """Record that a trial's processes are being started. waits: whether its workers may still
        wait for their devices; these then count from its first report on."""
        self._size[name] = self._devices
        if not waits:
            self._since[name] = self._clock()
        self._started += 1

    def worked(self, name: str, devices: float, seconds: float = 0.0) -> None:
        """Record a report of a trial, which has held `devices` since its last report; for the last
        `seconds` if it may have waited for them."""
        if name not in self._size:
            return
        self._size[name] = devices
        if name in self._since:
            self._spent_hours += self._running_hours(name)
        else:
            self._spent_hours += devices * seconds / 3600
        self._since[name] = self._clock()

    def interrupted(self, name: str) -> None:
        """Record that a trial has lost its workers, and waits for others."""
        if name in self._since:
            self._spent_hours += self._running_hours(name)
            del self._since[name]

    def ended(self, name: str, failed: bool = False) -> None:
        """Record that a trial has released its devices."""
        self.interrupted(name)
        self._size.pop(name, None)
        self._failed += failed

    def idle(self) -> bool:
        """Whether no trial is known to hold devices: a trial whose workers may wait for machines is
        known to hold them from its next report on."""
        return not self._since

    @property
    def device_hours(self) -> float:
        """Device-hours that the study has used so far, including running trials."""
        return self._spent_hours + sum(map(self._running_hours, self._since))

    def _running_hours(self, name: str) -> float:
        """Return the device-hours of a running trial since its last report."""
        return self._size[name] * (self._clock() - self._since[name]) / 3600

    def pause(self, reason: str) -> None:
        """Make running trials end at their next checkpoint, as if a limit were reached."""
        self._pause_reason = self._pause_reason or reason

    def pause_reason(self) -> str | None:
        """Return the limit that makes running trials end at their next checkpoint; None if no limit
        is reached."""
        limits = self._limits
        if self._pause_reason is not None:
            return self._pause_reason
        if limits.gpu_hours is not None and self.device_hours >= limits.gpu_hours:
            return (
                f"limits.gpu_hours: this study has used {self.device_hours:.3g} of "
                f"{limits.gpu_hours:g} {self._unit}; raise the limit to continue"
            )
        hours = (self._clock() - self._began) / 3600
        if limits.wall_hours is not None and hours >= limits.wall_hours:
            return (
                f"limits.wall_hours: this command has run for its {limits.wall_hours:g} h; "
                "rerun it to continue"
            )
        if limits.failures is not None and self._failed >= limits.failures:
            return (
                f"limits.failures: {self._failed} trial{' has' if self._failed == 1 else 's have'} "
                "failed; fix the cause, then rerun to continue the remaining trials"
            )
        return None

    def may_start(self, pending: int = 0) -> bool:
        """Whether the limits allow one more trial, in addition to `pending` ones about to start."""
        trials = self._limits.trials
        within = trials is None or self._started + pending < trials
        return self.pause_reason() is None and within

    def leave_out(self) -> None:
        """Record that the limit reached now kept a trial from starting or from finishing."""
        reason = self.pause_reason()
        if reason is None and not self.may_start():
            reason = (
                f"limits.trials: this command has started {counted(self._started, 'trial')}; "
                "rerun it to continue with the next"
            )
        self._left_out = self._left_out or reason

    def left_out_reason(self) -> str | None:
        """Return the limit that kept trials from starting or finishing; None if no trial was
        affected, even if a limit is reached."""
        return self._left_out
