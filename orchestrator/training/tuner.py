"""Where Ray Tune asks and tells: which trials end before their time, and what becomes of each."""

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

# What a trial's driver reports besides its epochs, once it ends.
FAILURE = "failure"

OUTCOME = "outcome"


class TrialEvents(Protocol):
    """Who wants to know what happens to the trials; called in this process, one at a time."""

    def started(self, name: str) -> None: ...

    def epoch(self, name: str, metrics: dict[str, Any]) -> None: ...

    def finished(self, name: str, outcome: dict[str, Any]) -> None: ...

    def failed(self, name: str, cause: str) -> None: ...

    def stopped_early(self, name: str) -> None:
        """Early stopping has given the trial up."""

    def held(self, name: str) -> None:
        """The trial has ended at a checkpoint, because `hold_requested`."""

    def stop_requested(self) -> bool:
        """Whether all trials are to end now, wherever they are."""

    def hold_requested(self) -> bool:
        """Whether every running trial is to end at its next checkpoint."""

    def may_start(self, pending: int) -> bool:
        """Whether a further trial may be started besides `pending` ones that are about to be."""

    def unwanted(self, name: str) -> bool:
        """Whether nobody wants the trial any more."""


class EventChannel:
    """The way back into this process. Tune writes its callbacks to a file; a link stays behind."""

    def __init__(self, events: TrialEvents) -> None:
        self.events = events
        self.begun = 0

    def ending(self) -> bool:
        """Whether trials are being ended on request."""
        return self.events.stop_requested() or self.events.hold_requested()

    def closed(self, admitted: int) -> bool:
        """Whether no trial is to be started besides those `admitted` so far."""
        return self.ending() or not self.events.may_start(admitted - self.begun)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class TableSafeASHA(ASHAScheduler):
    """Gives trials up by the rank of their mIoU, but none at its last epoch: that one is trained
    in full, and ends by itself, after its results are written."""

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
        """Whether the trial goes on, see `TrialScheduler`."""
        action = super().on_trial_result(tune_controller, trial, result)
        # `stop_last_trials` takes away Ray's end at `max_t`, but not a rung that lies there.
        if _is_last(self._jobs[trial.config["job"]], result):
            return str(self.CONTINUE)
        return str(action)


class RequestStopper(tune.Stopper):
    """Ends all trials once a stop was asked for, those that nobody wants any more, and each at its
    next report, which comes with a checkpoint, where they are to be held. One that has reported its
    last epoch has nothing to hold: it is left to write its results."""

    def __init__(self, jobs: Sequence[Job], link: EventChannel) -> None:
        self._jobs = jobs
        self._link = link

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        if FAILURE in result or OUTCOME in result:
            return False
        job = self._jobs[result["config"]["job"]]
        if self._link.events.unwanted(job.name):
            return True
        return self._link.ending() and not _is_last(job, result)

    def stop_all(self) -> bool:
        return self._link.events.stop_requested()


class EventCallback(tune.Callback):
    """Hands Tune's events on, in the study's own terms."""

    def __init__(self, jobs: Sequence[Job], link: EventChannel) -> None:
        self._jobs = jobs
        self._link = link
        self._causes: dict[str, str] = {}
        self._finished: set[str] = set()

    def _name(self, trial: TuneTrial) -> str:
        return self._jobs[trial.config["job"]].name

    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any
    ) -> None:
        self._link.begun += 1
        self._link.events.started(self._name(trial))

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
            self._link.events.finished(self._name(trial), result[OUTCOME])
        elif "epoch" in result:
            self._link.events.epoch(self._name(trial), result)

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any
    ) -> None:
        if trial.trial_id in self._finished or self._link.events.unwanted(self._name(trial)):
            return
        if self._link.ending():
            self._link.events.held(self._name(trial))
        else:
            self._link.events.stopped_early(self._name(trial))

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: Any
    ) -> None:
        cause = self._causes.get(trial.trial_id, "its process was lost; see Ray's logs")
        self._link.events.failed(self._name(trial), cause)


def _is_last(job: Job, result: dict[str, Any]) -> bool:
    """Whether a report is that of a training's last epoch."""
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
    """Run all jobs with Ray Tune, as `scheduling.policy` orders them, and tell `events` what
    happens.

    Returns when every job has ended, or when `events` wants no more and the running ones are
    stopped. One failing job leaves the others alone.

    max_concurrent: most gangs together; as many as fit for None. directory: Tune's own files.
    early_stopping: gives trials up by the rank of their mIoU. run: what a job's driver does.
    nodes: what there is, or may come to be where more is asked for; the connected ones for None.
    """
    driver = driver_resources(ray.cluster_resources())

    def trainable(config: dict[str, Any]) -> None:
        try:
            outcome = run(replace(jobs[config["job"]], may_use_idle=config["last"]))
            if outcome:  # nothing, where it was told to stop before its end
                tune.report({OUTCOME: outcome})
        except Exception as error:
            cause = (
                str(error) if isinstance(error, TrialError) else f"{type(error).__name__}: {error}"
            )
            # Tune tells its callbacks that a trial failed, but not why.
            tune.report({FAILURE: cause})
            raise

    link = EventChannel(events)
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
            search_alg=GangSearcher(waiting, nodes or connected_nodes, max_concurrent, link.closed),
            scheduler=early_stopping and TableSafeASHA(early_stopping, jobs),
            num_samples=len(jobs),
            max_concurrent_trials=len(jobs),  # the policy's bound is the one that counts
            # A trial that is stopped must take its process along, or its gang would go on in it.
            reuse_actors=early_stopping is None,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(directory),
            verbose=0,
            callbacks=[EventCallback(jobs, link)],
            stop=RequestStopper(jobs, link),
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    tuner.fit()
