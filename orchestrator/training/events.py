"""The events of the trials that Ray Tune runs, and the requests that end trials early."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ray import cloudpickle, tune
from ray.exceptions import RayActorError
from ray.tune.experiment import Trial as TuneTrial

from orchestrator.training.diagnosis import NodeLossDetector, diagnose
from orchestrator.training.failures import Attempts, Failure
from orchestrator.training.job import Job, is_last
from orchestrator.training.worker import SECONDS

_LOST_PROCESS = (
    "its process ended without an error of its own; it crashed or was killed, for example because "
    "the machine ran out of memory"
)

logger = logging.getLogger(__name__)

# Keys of the first and the last report of a trial; those between are epochs and checkpoints, and
# maybe a notice before them.
NODE = "node"
NOTICE = "notice"
FAILURE = "failure"
OUTCOME = "outcome"


class TrialEvents(Protocol):
    """Receives the events of trials and decides which end early; called in this process, one call
    at a time."""

    def started(self, name: str) -> None:
        """The trial's processes are being started; not called again for another attempt."""

    def epoch(self, name: str, metrics: dict[str, Any]) -> None: ...

    def notice(self, name: str, message: str) -> None:
        """The trial has something to tell the user before it trains."""

    def checkpoint(self, name: str, metrics: dict[str, Any]) -> None:
        """The trial has stored a checkpoint within an epoch; the metrics are its seconds of
        training, and describe its workers."""

    def interrupted(self, name: str) -> None:
        """The trial has lost its workers, and another attempt waits."""

    def finished(self, name: str, outcome: dict[str, Any]) -> None: ...

    def failed(self, name: str, failure: Failure) -> None: ...

    def stopped_early(self, name: str) -> None:
        """Early stopping ended the trial."""

    def paused(self, name: str) -> None:
        """The trial ended at a checkpoint, because of `pause_requested`."""

    def stop_requested(self) -> bool:
        """Whether all trials must end immediately."""

    def pause_requested(self) -> bool:
        """Whether every running trial must end at its next checkpoint."""

    def may_start(self, pending: int) -> bool:
        """Whether one more trial may start, in addition to `pending` ones about to start."""

    def unwanted(self, name: str) -> bool:
        """Whether the trial must end because its run was deleted."""


class EventChannel:
    """Connects Tune's hooks with `events` in this process.

    Tune pickles its hooks, and a pickled channel is empty.
    """

    def __init__(self, events: TrialEvents) -> None:
        self.events = events
        self.started = 0

    def ending(self) -> bool:
        """Whether the running trials must end, immediately or at their next checkpoint."""
        return self.events.stop_requested() or self.events.pause_requested()

    def closed(self, suggested: int) -> bool:
        """Whether no trial may start after the first `suggested` ones."""
        return self.ending() or not self.events.may_start(suggested - self.started)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class RequestStopper(tune.Stopper):
    """Stops trials on request.

    A stop request ends all trials, a pause request each at its next report, which comes with a
    checkpoint, and a deleted run its own trial. A trial that has reported its last epoch is left to
    write its results, unless its run was deleted.
    """

    def __init__(self, jobs: Sequence[Job], channel: EventChannel) -> None:
        self._jobs = jobs
        self._channel = channel

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        if {NODE, NOTICE, FAILURE, OUTCOME} & result.keys():
            return False
        job = self._jobs[result["config"]["job"]]
        if self._channel.events.unwanted(job.name):
            return True
        return self._channel.ending() and not is_last(job, result)

    def stop_all(self) -> bool:
        return self._channel.events.stop_requested()


class EventCallback(tune.Callback):
    """Translates Tune's callbacks into `TrialEvents`, and decides which failed trials to retry.

    A retry is another trial of Tune, which resumes from the job's last checkpoint.
    """

    def __init__(
        self, jobs: Sequence[Job], channel: EventChannel, retry: Callable[[int], None]
    ) -> None:
        """retry: starts another attempt of the job with this index."""
        self._jobs = jobs
        self._channel = channel
        self._retry = retry
        self._attempts = [Attempts(job.retries) for job in jobs]
        self._detectors = [NodeLossDetector() for _ in jobs]
        self._failures: dict[str, Failure] = {}
        self._finished: set[str] = set()
        self._retried: set[str] = set()
        self._started: set[str] = set()
        self._started_ids: set[str] = set()
        self._restarted: set[str] = set()

    def _name(self, trial: TuneTrial) -> str:
        return self._jobs[trial.config["job"]].name

    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any
    ) -> None:
        name = self._name(trial)
        self._retried.discard(name)
        self._started_ids.add(trial.trial_id)
        if name not in self._started:
            self._started.add(name)
            self._channel.started += 1
            self._channel.events.started(name)

    def on_trial_result(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        result: dict[str, Any],
        **_: Any,
    ) -> None:
        if NODE in result:
            self._detectors[trial.config["job"]].record({result[NODE]})
        elif NOTICE in result:
            self._channel.events.notice(self._name(trial), result[NOTICE])
        elif FAILURE in result:
            self._failures[trial.trial_id] = Failure(**result[FAILURE])
        elif OUTCOME in result:
            self._finished.add(trial.trial_id)
            self._channel.events.finished(self._name(trial), result[OUTCOME])
        elif "epoch" in result:
            self._channel.events.epoch(self._name(trial), result)
        elif SECONDS in result:
            self._channel.events.checkpoint(self._name(trial), result)

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any
    ) -> None:
        if trial.trial_id in self._finished or self._channel.events.unwanted(self._name(trial)):
            return
        if self._channel.ending():
            self._channel.events.paused(self._name(trial))
        else:
            self._channel.events.stopped_early(self._name(trial))

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any
    ) -> None:
        index, name = trial.config["job"], self._name(trial)
        failure = self._failures.get(trial.trial_id) or self._lost_process(trial)
        attempts = self._attempts[index]
        if not self._lost_before_start(trial) and not attempts.retry_after(failure):
            if failure.retryable:
                what = "a GPU failed" if failure.cause == "GPU fault" else "a worker was lost"
                prefix = f"{what} {attempts.counted} times, the last time: "
                failure = replace(failure, message=prefix + failure.message)
            self._channel.events.failed(name, failure)
        elif self._channel.ending():
            self._channel.events.paused(name)
        elif self._channel.events.unwanted(name):
            self._channel.events.failed(name, failure)
        else:
            logger.warning("%s: %s (%s), resuming", name, failure.cause, failure.message)
            self._channel.events.interrupted(name)
            self._retried.add(name)
            self._retry(index)

    def _lost_before_start(self, trial: TuneTrial) -> bool:
        """Whether the process of an earlier trial was lost before this trial started in it. True at
        most once for each job, because a new process may fail to start, too."""
        name = self._name(trial)
        if trial.trial_id in self._started_ids or name in self._restarted:
            return False
        self._restarted.add(name)
        return True

    def report_unfinished_retries(self) -> None:
        """Report the trials whose next attempt was not started before the study was stopped."""
        for name in self._retried:
            self._channel.events.paused(name)

    def _lost_process(self, trial: TuneTrial) -> Failure:
        """Return why the process of a trial's Tune function ended."""
        # `Trial.get_pickled_error` reads a copy that Tune makes later.
        path = trial.pickled_error_file
        error = cloudpickle.loads(Path(path).read_bytes()) if path else RayActorError()
        failure = diagnose(error)
        if failure.cause == "lost worker":
            failure = replace(failure, message=_LOST_PROCESS)
        detector = self._detectors[trial.config["job"]]
        if failure.cause == "lost worker" and detector.lost_a_node():
            return replace(failure, cause="lost node")
        return failure
