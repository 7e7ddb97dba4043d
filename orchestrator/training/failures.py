"""How a trial can fail, and after which failures it is tried again."""

from dataclasses import dataclass
from typing import Literal

# The first explains the others: a worker that ran out of memory takes its group along.
Cause = Literal[
    "out of memory",
    "non-finite loss",
    "data",
    "network",
    "checkpoint",
    "error",
    "preemption",
    "lost node",
    "lost worker",
]


class WrongTrialError(RuntimeError):
    """A gang was handed what belongs to another trial: nothing of it may count."""


def check_trial(expected: str, received: str) -> None:
    """Raise WrongTrialError where what a gang received is not of the run it was started for."""
    if received != expected:
        raise WrongTrialError(
            f"the gang of {expected!r} received what belongs to {received!r}; nothing of it was "
            "recorded. This is a fault of the orchestrator or of Ray: please report it"
        )


@dataclass(frozen=True)
class Failure:
    """One attempt's end. message: for a person, without a traceback; stage: what was being done,
    where a rehearsal noted it."""

    cause: Cause
    message: str
    stage: str = ""

    @property
    def uncounted(self) -> bool:
        """Whether the trial resumes however often it happens: the machine went, not the trial."""
        return self.cause in ("preemption", "lost node")

    @property
    def retryable(self) -> bool:
        """Whether another attempt may end better: an error of the training would come again."""
        return self.uncounted or self.cause == "lost worker"


class Attempts:
    """Decides after each failure of a trial whether it is tried again. allowed: how many counted
    failures are forgiven."""

    def __init__(self, allowed: int) -> None:
        self._allowed = allowed
        self.counted = 0

    def retry_after(self, failure: Failure) -> bool:
        """Whether to resume from the last checkpoint."""
        if not failure.retryable:
            return False
        if failure.uncounted:
            return True
        self.counted += 1
        return self.counted <= self._allowed
