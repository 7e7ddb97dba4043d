"""Runs jobs with Ray Tune: which trials it ends early, and the events it passes back."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler

from orchestrator.cluster.nodes import connected_nodes
from orchestrator.scheduling.capacity import (
    driver_resources,
)
from orchestrator.scheduling.policy import GangShape, Node, Waiting
from orchestrator.study.config import EarlyStopping
from orchestrator.training.job import Job
from orchestrator.training.searcher import GangSearcher
from orchestrator.training.trial import TrialError, run_trial

# Keys of the last report of a trial's driver; the earlier reports are epochs and checkpoints.
FAILURE = "failure"
OUTCOME = "outcome"


class TrialEvents(Protocol):
    """Receives the events of trials and decides which end early; called in this process, one call
    at a time."""

    def started(self, name: str) -> None: ...

    def epoch(self, name: str, metrics: dict[str, Any]) -> None: ...

    def finished(self, name: str, outcome: dict[str, Any]) -> None: ...

    def failed(self, name: str, cause: str) -> None: ...

    def stopped_early(self, name: str) -> None:
        """Early stopping ended the trial."""

    def held(self, name: str) -> None:
        """The trial ended at a checkpoint, because of `hold_requested`."""

    def stop_requested(self) -> bool:
        """Whether all trials must end immediately."""

    def hold_requested(self) -> bool:
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
        return self.events.stop_requested() or self.events.hold_requested()

    def closed(self, suggested: int) -> bool:
        """Whether no trial may start after the first `suggested` ones."""
        return self.ending() or not self.events.may_start(suggested - self.started)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class TableSafeASHA(ASHAScheduler):
    """ASHA on the trials' mIoU that never stops a trial at its last epoch.

    Such a trial is complete, and ends by itself after writing its results.
    """

    def __init__(self, settings: EarlyStopping, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        epochs = max(job.task.experiment.training.epochs for job in jobs)
        super().__init__(
            time_attr="epoch",
            metric="val/miou",
            mode="max",
            max_t=max(epochs, settings.grace_epochs),
            grace_period=settings.grace_epochs,
            reduction_factor=settings.reduction,
            stop_last_trials=False,
        )

    def on_trial_result(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        """Return whether the trial continues, see `TrialScheduler`."""
        action = super().on_trial_result(tune_controller, trial, result)
        # `stop_last_trials=False` disables Ray's stop at `max_t`, but not a rung at that epoch.
        if _is_last(self._jobs[trial.config["job"]], result):
            return str(self.CONTINUE)
        return str(action)


class RequestStopper(tune.Stopper):
    """Stops trials on request.

    A stop request ends all trials, a hold request each at its next report, which comes with a
    checkpoint, and a deleted run its own trial. A trial that has reported its last epoch is left to
    write its results, unless its run was deleted.
    """

    def __init__(self, jobs: Sequence[Job], channel: EventChannel) -> None:
        self._jobs = jobs
        self._channel = channel

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        if FAILURE in result or OUTCOME in result:
            return False
        job = self._jobs[result["config"]["job"]]
        if self._channel.events.unwanted(job.name):
            return True
        return self._channel.ending() and not _is_last(job, result)

    def stop_all(self) -> bool:
        return self._channel.events.stop_requested()


class EventCallback(tune.Callback):
    """Translates Tune's callbacks into `TrialEvents`."""

    def __init__(self, jobs: Sequence[Job], channel: EventChannel) -> None:
        self._jobs = jobs
        self._channel = channel
        self._causes: dict[str, str] = {}
        self._finished: set[str] = set()

    def _name(self, trial: TuneTrial) -> str:
        return self._jobs[trial.config["job"]].name

    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any
    ) -> None:
        self._channel.started += 1
        self._channel.events.started(self._name(trial))

    def on_trial_result(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        result: dict[str, Any],
        **_: Any,
    ) -> None:
        if FAILURE in result:
            self._causes[trial.trial_id] = result[FAILURE]
        elif OUTCOME in result:
            self._finished.add(trial.trial_id)
            self._channel.events.finished(self._name(trial), result[OUTCOME])
        elif "epoch" in result:
            self._channel.events.epoch(self._name(trial), result)

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any
    ) -> None:
        if trial.trial_id in self._finished or self._channel.events.unwanted(self._name(trial)):
            return
        if self._channel.ending():
            self._channel.events.held(self._name(trial))
        else:
            self._channel.events.stopped_early(self._name(trial))

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any
    ) -> None:
        cause = self._causes.get(trial.trial_id, "the trial's driver was lost; see Ray's logs")
        self._channel.events.failed(self._name(trial), cause)


def _is_last(job: Job, result: dict[str, Any]) -> bool:
    """Whether a report is that of the job's last epoch."""
    return bool(result.get("epoch") == job.task.experiment.training.epochs)


def run_jobs(
    jobs: Sequence[Job],
    max_concurrent: int | None,
    events: TrialEvents,
    directory: Path,
    name: str,
    early_stopping: EarlyStopping | None = None,
    run: Callable[[Job], dict[str, Any]] = run_trial,
    nodes: Callable[[], Sequence[Node]] | None = None,
) -> None:
    """Run all jobs with Ray Tune, in the order of `scheduling.policy`, and report to `events`.

    Returns when every job has ended, or `events` has stopped the running ones and lets no other
    start. A failing job does not affect the others.

    max_concurrent: maximum number of running jobs; None for as many as fit.
    directory: for Tune's own files.
    name: of Tune's experiment.
    early_stopping: stops trials whose mIoU is low compared with the others'.
    run: the function that a job's driver executes.
    nodes: returns the cluster's nodes at its full size; None for the connected nodes.
    """
    driver = driver_resources(ray.cluster_resources())

    def trainable(config: dict[str, Any]) -> None:
        try:
            outcome = run(replace(jobs[config["job"]], may_use_idle=config["last"]))
            if outcome:  # empty if it was requested to stop
                tune.report({OUTCOME: outcome})
        except Exception as error:
            cause = (
                str(error) if isinstance(error, TrialError) else f"{type(error).__name__}: {error}"
            )
            # Tune's callbacks learn that a trial failed, but not why.
            tune.report({FAILURE: cause})
            raise

    channel = EventChannel(events)
    waiting = [
        Waiting(
            job.name,
            GangShape.of(job.workers, job.resources, driver),
            job.expected_seconds,
            job.priority,
        )
        for job in jobs
    ]
    tuner = tune.Tuner(
        tune.with_resources(trainable, dict(driver)),
        tune_config=tune.TuneConfig(
            search_alg=GangSearcher(
                waiting, nodes or connected_nodes, max_concurrent, channel.closed
            ),
            scheduler=early_stopping and TableSafeASHA(early_stopping, jobs),
            num_samples=len(jobs),
            max_concurrent_trials=len(jobs),  # `GangSearcher` limits them
            # A stopped trial must end its process, or the workers would continue.
            reuse_actors=early_stopping is None,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(directory),
            verbose=0,
            callbacks=[EventCallback(jobs, channel)],
            stop=RequestStopper(jobs, channel),
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    tuner.fit()
