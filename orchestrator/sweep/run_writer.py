"""Writing to the runs of trials, so that no run is closed before all of it is there.

A tracking store is away at times. A write that fails then is owed, and made up for before the run
is closed; only a run that cannot be closed as it should be is lost, and said to be.
"""

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from functools import partial

from orchestrator.study.trial_state import TrialState
from orchestrator.sweep.progress import StudyProgress
from orchestrator.tracking.study_run import StudyRun

_Write = Callable[[], None]

logger = logging.getLogger(__name__)

_Task = Callable[[], None]


class RunWriter:
    """Writes in the background, in order. run_ids: of the trials at work, by their names.

    failures: by the trial's name, why trials failed; gets those that could not be recorded.
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
        self._owed: dict[str, list[_Write]] = {name: [] for name in run_ids}
        self._has_failed = False
        self._deleted: set[str] = set()
        self._writer = BackgroundWriter()

    def write(self, name: str, task: _Write) -> None:
        """Write a part of a trial's run; at the latest before the run is closed."""
        self._writer.submit(task, lambda error: self._owe(name, task, error))

    def close_run(self, name: str, task: _Write) -> None:
        """Write the end of a trial's run, after all that is owed of it."""
        self._writer.submit(partial(self._close, name, task), partial(self._lose, name))

    def is_deleted(self, name: str) -> bool:
        """Whether a write has met with a run that was deleted in MLflow."""
        return name in self._deleted

    def drain(self) -> None:
        """Wait until all is written."""
        self._writer.drain()

    def cancel(self) -> None:
        """Write nothing more."""
        self._writer.cancel()

    def _close(self, name: str, task: _Write) -> None:
        owed = self._owed[name]
        while owed:
            owed[0]()
            del owed[0]
        task()

    def _owe(self, name: str, task: _Write, error: Exception) -> None:
        if not self._is_there(name):
            return
        self._owed[name].append(task)
        if not self._has_failed:
            self._has_failed = True
            self._progress.say(
                f"the ledger could not be written ({error}); what is missing of a trial is written "
                "when it ends"
            )

    def _lose(self, name: str, error: Exception) -> None:
        """A run could not be closed as it should be. Where it cannot be closed as failed either,
        the study's end closes it."""
        if self._is_there(name):
            told = f"its results could not be recorded: {error}"
            cause = self._failures.setdefault(name, told)
            self._progress.ended(name, TrialState.FAILED, told)
            self._study_run.end_trial(self._run_ids[name], "FAILED", cause)

    def _is_there(self, name: str) -> bool:
        """Whether the trial's run is still there; says so once where it was deleted."""
        if name not in self._deleted and not self._study_run.store.exists(self._run_ids[name]):
            self._deleted.add(name)
            self._progress.ended(name, TrialState.INTERRUPTED, "its run was deleted in MLflow")
        return name not in self._deleted


class BackgroundWriter:
    """One thread that does what it is given, in order, until `drain` or `cancel`."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[tuple[_Task, Callable[[Exception], None]] | None]
        self._tasks = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    def submit(self, task: _Task, on_error: Callable[[Exception], None]) -> None:
        """Do `task` after all that was given before; `on_error` gets what it raises, on the
        writer's thread. What either raises is logged, and the next task is done all the same."""
        self._tasks.put((task, on_error))

    def drain(self) -> None:
        """Wait until all that was given is done, and end the thread."""
        self._tasks.put(None)
        self._thread.join()

    def cancel(self) -> None:
        """End the thread after what it is doing; the rest is not done."""
        self._cancelled.set()
        self.drain()

    def _work(self) -> None:
        while (entry := self._tasks.get()) is not None:
            if self._cancelled.is_set():
                continue
            task, on_error = entry
            try:
                task()
            except Exception as error:
                logger.exception("a write to the ledger failed")
                _tell(on_error, error)


def _tell(on_error: Callable[[Exception], None], error: Exception) -> None:
    try:
        on_error(error)
    except Exception:  # the store may be away for this, too; what is queued is not lost with it
        logger.exception("so did what was to be done about it")
