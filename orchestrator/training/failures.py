"""The causes of a trial's failure, and which of them allow another attempt."""

import sys
import sysconfig
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from orchestrator.study.import_closure import INSTALLED_DIRECTORIES, PROJECT_PACKAGES

# Of the causes of several workers, the first listed explains the others: a worker that runs out of
# memory makes its peers fail.
Cause = Literal[
    "out of memory",
    "disk full",
    "non-finite loss",
    "data",
    "network",
    "checkpoint",
    "error",
    "GPU fault",
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
        return self.uncounted or self.cause in ("GPU fault", "lost worker")


class TrialError(RuntimeError):
    """An attempt to train a trial failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def user_line(error: BaseException) -> str:
    """Return the last line of the user's own code in the traceback of an error, such as
    `networks/mine.py, line 12`; empty if none of it is involved."""
    if error.__cause__ is not None and (line := user_line(error.__cause__)):
        return line
    frames = traceback.walk_tb(error.__traceback__)
    lines = [f"{name}, line {line}" for frame, line in frames if (name := _user_file(frame))]
    if lines or error.__context__ is None:
        return lines[-1] if lines else ""
    return user_line(error.__context__)


def _user_file(frame: FrameType) -> str:
    """Return a frame's file, relative to the directory from which it is imported; empty if it is
    part of this project, an installed package or Python."""
    file, name = Path(frame.f_code.co_filename), frame.f_globals.get("__name__", "")
    module = sys.modules.get(name)
    if name.partition(".")[0] in PROJECT_PACKAGES or module is None or not file.is_absolute():
        return ""
    if INSTALLED_DIRECTORIES & set(file.parts) or file.is_relative_to(
        sysconfig.get_paths()["stdlib"]
    ):
        return ""
    folders = name.count(".") + (file.name == "__init__.py")
    return str(Path(*file.parts[-1 - folders :]))


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
