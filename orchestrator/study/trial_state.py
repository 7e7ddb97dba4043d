"""The states of a trial, with their labels and terminal styles."""

from enum import StrEnum


class TrialState(StrEnum):
    """The state of a trial. The value is the label shown to users."""

    MISSING = "missing"  # never started
    WAITING = "waiting"  # scheduled, not started
    STARTING = "starting"  # Ray is starting its workers
    TRAINING = "training"
    INTERRUPTED = "interrupted"  # ended before its last epoch; the same command resumes it
    FAILED = "failed"
    STOPPED_EARLY = "stopped early"  # by early stopping in a search
    NOT_SCORED = "not scored"  # trained, but not yet scored under the report's protocol
    STALE = "stale"  # finished with a different code version
    FINISHED = "finished"

    @property
    def style(self) -> str:
        """The rich style for terminals."""
        return _STYLES[self]

    @property
    def has_result(self) -> bool:
        """Whether the table shows the trial's run as its result."""
        return self in (TrialState.FINISHED, TrialState.STALE, TrialState.STOPPED_EARLY)


_STYLES = {
    TrialState.MISSING: "dim",
    TrialState.WAITING: "dim",
    TrialState.STARTING: "yellow",
    TrialState.TRAINING: "cyan",
    TrialState.INTERRUPTED: "yellow",
    TrialState.FAILED: "bold red",
    TrialState.STOPPED_EARLY: "green",
    TrialState.NOT_SCORED: "yellow",
    TrialState.STALE: "yellow",
    TrialState.FINISHED: "green",
}
