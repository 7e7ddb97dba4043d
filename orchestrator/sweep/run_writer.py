"""Writes to the runs of trials, and closes no run before everything is written.

The tracking store may be unreachable for a while. Failed writes are retried before the run is
closed. A run that cannot be completed even then is interrupted, not failed.
"""

import threading
from collections.abc import Mapping
from functools import partial

from orchestrator.study.trial_state import TrialState
from orchestrator.sweep.background_writer import BackgroundWriter, Task
from orchestrator.sweep.progress import StudyProgress
from orchestrator.tracking.store import is_store_error
from orchestrator.tracking.study_run import StudyRun
from pipelines import wording
from pipelines.errors import is_disk_full

# MLflow itself retries a request for minutes before it fails.
SLOW_SECONDS = 15.0


class RunWriter:
    """Writes to runs in the background, in order.

    run_ids: of the active trials, by name. failures: causes by trial name; trials that could not be
    recorded are added.
    """

    def __init__(
        self,
        study_run: StudyRun,
        run_ids: Mapping[str, str],
        progress: StudyProgress,
        failures: dict[str, str],
    ) -> None:
        self._study_run = study_run
        self._run_ids = run_ids
        self._progress = progress
        self._failures = failures
        self._retries: dict[str, list[Task]] = {name: [] for name in run_ids}
        self._has_warned = False
        self._is_waiting = False
        self._deleted: set[str] = set()
        self._writer = BackgroundWriter()

    def write(self, name: str, task: Task) -> None:
        """Queue a write to a trial's run; if it fails, it is retried before the run is closed."""
        self._writer.submit(
            partial(self._run, task), lambda error: self._retry_later(name, task, error)
        )

    def close_run(self, name: str, task: Task) -> None:
        """Queue the last write to a trial's run, after retries of all failed ones."""
        self._writer.submit(partial(self._close, name, task), partial(self._fail, name))

    def is_deleted(self, name: str) -> bool:
        """Whether a write has failed because the run was deleted in MLflow."""
        return name in self._deleted

    def drain(self) -> None:
        """Wait until everything is written."""
        self._writer.drain()

    def cancel(self) -> None:
        """Drop all queued writes."""
        self._writer.cancel()

    def _close(self, name: str, task: Task) -> None:
        retries = self._retries[name]
        while retries:
            self._run(retries[0])
            del retries[0]
        task()  # uploads models, which may take long

    def _run(self, task: Task) -> None:
        """Run a write; say when the store does not answer for long, and when it answers again."""
        timer = threading.Timer(SLOW_SECONDS, self._say_waiting)
        timer.daemon = True
        timer.start()
        try:
            task()
        finally:
            timer.cancel()
        if self._is_waiting:
            self._is_waiting = False
            self._progress.say("the tracking store answers again")

    def _say_waiting(self) -> None:
        if not self._is_waiting:
            self._is_waiting = True
            self._progress.say(
                "the tracking store does not answer; training continues, and results wait for it"
            )

    def _retry_later(self, name: str, task: Task, error: Exception) -> None:
        if not self._run_exists(name):
            return
        self._retries[name].append(task)
        if not self._has_warned:
            self._has_warned = True
            self._progress.say(
                f"the tracking store could not be written ({wording.cause(error)}); failed writes "
                "are retried when the trial ends"
            )

    def _fail(self, name: str, error: Exception) -> None:
        """Close the run because it cannot be completed now. If the store is the reason, the run is
        interrupted, and the next command completes it from its last checkpoint. If closing it fails
        too, or without disk space, the study's end closes it."""
        if is_disk_full(error):
            return self._progress.ended(name, TrialState.INTERRUPTED, "no space left on the disk")
        if not self._run_exists(name):
            return
        message = f"its results could not be recorded: {wording.cause(error)}"
        if is_store_error(error):
            message += "; rerun the command to record them"
            self._progress.ended(name, TrialState.INTERRUPTED, message)
            self._study_run.end_trial(self._run_ids[name], "KILLED", message)
        else:
            cause = self._failures.setdefault(name, message)
            self._progress.ended(name, TrialState.FAILED, message)
            self._study_run.end_trial(self._run_ids[name], "FAILED", cause)

    def _run_exists(self, name: str) -> bool:
        """Whether the trial's run still exists; if it was deleted, say so once."""
        if name not in self._deleted and not self._study_run.store.exists(self._run_ids[name]):
            self._deleted.add(name)
            self._progress.ended(name, TrialState.INTERRUPTED, "its run was deleted in MLflow")
        return name not in self._deleted
