"""The causes of a trial's failure, and which of them allow another attempt."""

from dataclasses import dataclass
from typing import Literal

# Of the causes of several workers, the first listed explains the others: a worker that runs out of
# memory makes its peers fail.
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
    "edited code",
]


class WrongTrialError(RuntimeError):
    """The workers of a trial received data of another trial, so their results are invalid."""


def check_trial(expected: str, received: str) -> None:
    """Raise WrongTrialError unless data received by the workers of run `expected` are its own."""
    if received != expected:
        raise WrongTrialError(
            f"the workers of {expected!r} received data of {received!r}; nothing was recorded. "
            "This is a bug in the orchestrator or in Ray: please report it"
        )


class PreemptedError(RuntimeError):
    """A training ended at a checkpoint because its machine is about to be preempted."""


class EditedCodeError(RuntimeError):
    """Sources were edited after this process had imported them, so it would train outdated code."""


@dataclass(frozen=True)
class Failure:
    """The failure of one attempt.

    message: for users, without traceback.
    stage: of a preflight run; empty in training.
    """

    cause: Cause
    message: str
    stage: str = ""

    @property
    def uncounted(self) -> bool:
        """Whether any number of these is retried, because the trial did not cause them."""
        return self.cause in ("preemption", "lost node", "edited code")

    @property
    def retryable(self) -> bool:
        """Whether another attempt may succeed; an error of the training itself would recur."""
        return self.uncounted or self.cause == "lost worker"


class TrialError(RuntimeError):
    """An attempt to train a trial failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Attempts:
    """Decides after each failure of a trial whether to retry it.

    allowed: number of counted failures that are retried.
    """

    def __init__(self, allowed: int) -> None:
        self._allowed = allowed
        self.counted = 0

    def retry_after(self, failure: Failure) -> bool:
        """Count the failure, and return whether to resume from the last checkpoint."""
        if not failure.retryable:
            return False
        if failure.uncounted:
            return True
        self.counted += 1
        return self.counted <= self._allowed
