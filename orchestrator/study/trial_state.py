"""The states of a trial, as every table, report and page names and colors them."""

from enum import StrEnum


class TrialState(StrEnum):
    """How far a trial is. The value is the label that users read."""

    MISSING = "missing"  # no run yet
    WAITING = "waiting"  # scheduled, not started
    STARTING = "starting"  # Ray starts its workers
    TRAINING = "training"
    INTERRUPTED = "interrupted"  # ended before its last epoch; the same command resumes it
    FAILED = "failed"
    STOPPED_EARLY = "stopped early"  # by the early stopping of a search
    NOT_SCORED = "not scored"  # trained, but not scored under the report's protocol
    STALE = "stale"  # finished under another code version
    FINISHED = "finished"

    @property
    def style(self) -> str:
        """Its style in the terminal, in rich's markup."""
        return _STYLES[self]

    @property
    def has_result(self) -> bool:
        """Whether the trial's run is the one that the table shows."""
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
