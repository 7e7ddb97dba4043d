"""Writes what happens to the trials into the ledger, and shows it."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from orchestrator.context import RunContext
from orchestrator.planning.measurements import measurement_of_trial
from orchestrator.scheduling.budget import Budget
from orchestrator.storage import on_this_machine
from orchestrator.study.identity import code_version
from orchestrator.study.resolve import ResolvedTrial
from orchestrator.study.trial_state import TrialState
from orchestrator.study.user_code import modules_of
from orchestrator.sweep.progress import StudyProgress
from orchestrator.sweep.run_writer import RunWriter
from orchestrator.tracking.models import log_models
from orchestrator.tracking.study_run import StudyRun
from orchestrator.training.stop_file import StopFile
from orchestrator.training.worker import CODE, DEVICE, RESULTS_DIRECTORY, WORKERS
from orchestrator.training.worker_logs import output_directory
from pipelines.network.checkpoint import STATE_FILE, WEIGHTS_FILE, read_history


@dataclass
class ActiveTrial:
    """A trial under way. run_id: its run in the ledger. logged: its epochs there, or on their way.
    seconds and hours: recorded so far, of training and of all its workers together. workers: at
    work on it now; devices: GPUs of each, 1 where there is none; sizes: how many workers its epochs
    were trained by. device: what a worker computes on, once it has said so; code: the version that
    trains it; began: when its processes were started, by a monotonic clock, unless it goes on from
    a checkpoint."""

    trial: ResolvedTrial
    run_id: str
    logged: set[int]
    seconds: float
    hours: float
    workers: int
    devices: float
    device: str = ""
    code: str = ""
    began: float | None = None
    sizes: set[int] = field(default_factory=set)


# How long trials may take to write a checkpoint after a stop was asked for.
GRACE_SECONDS = 60.0


class Recorder:
    """The study's `tune_hooks.TrialEvents`. The ledger is written in the background; `close` waits
    for it."""

    def __init__(
        self,
        study_run: StudyRun,
        progress: StudyProgress,
        trials: Mapping[str, ActiveTrial],
        context: RunContext,
        stop: StopFile,
        on_gpu: bool,
        budget: Budget,
        on_finished: Callable[[], None],
    ) -> None:
        """trials: by trial name. stop: what the workers watch. on_finished: called, from the
        writing thread, as trials finish, once all of a trial is recorded."""
        self.failures: dict[str, str] = {}
        self._study_run = study_run
        self._progress = progress
        self._trials = trials
        self._context = context
        self._budget = budget
        self._hours = "trial/gpu_hours" if on_gpu else "trial/worker_hours"
        self._on_finished = on_finished
        self._begun: set[str] = set()
        self._stop_file = stop
        self._stopping_since: float | None = None
        run_ids = {name: trial.run_id for name, trial in trials.items()}
        self._writer = RunWriter(study_run, run_ids, progress, self.failures)

    def stop_requested(self) -> bool:
        """Whether the trials are to be ended now: some time after the user has asked to stop, in
        which they write a checkpoint and end by themselves."""
        if not self._context.stop.requested:
            return False
        if self._stopping_since is None:
            self._stopping_since = time.monotonic()
            self._stop_file.request()
        return time.monotonic() - self._stopping_since > GRACE_SECONDS

    def hold_requested(self) -> bool:
        """Whether the user has asked to stop, or a limit of the study is reached."""
        return self._context.stop.requested or self._budget.hold_reason() is not None

    def may_start(self, pending: int) -> bool:
        """Whether the limits allow a further trial."""
        return self._budget.may_start(pending)

    def unwanted(self, name: str) -> bool:
        """Whether the trial's run was deleted in MLflow while it trained."""
        return self._writer.is_deleted(name)

    def started(self, name: str) -> None:
        """The trial's processes are being started."""
        self._budget.started(name)
        self._begun.add(name)
        trial = self._trials[name]
        trial.began = None if trial.logged else time.monotonic()
        imports = self._study_run.study.config.imports
        trial.code = code_version(modules_of(trial.trial.experiment, imports))
        start = partial(self._study_run.start_trial, trial.run_id, trial.code)
        self._writer.write(name, start)
        self._progress.started(name)

    def epoch(self, name: str, metrics: dict[str, Any]) -> None:
        """An epoch was reported."""
        numbers = _training_metrics(metrics)
        trial = self._trials[name]
        trial.device = metrics.get(DEVICE, "")
        trial.workers = metrics.get(WORKERS, trial.workers)
        if (code := metrics.get(CODE, trial.code)) != trial.code:  # the sources were edited
            trial.code = code
            self._writer.write(name, partial(self._study_run.note_code, trial.run_id, code))
        trial.sizes.add(trial.workers)
        self._budget.worked(name, trial.devices * trial.workers)
        self._log(name, numbers)
        self._progress.epoch(name, int(numbers["epoch"]), numbers)

    def finished(self, name: str, outcome: dict[str, Any]) -> None:
        """The trial reached its last epoch; its checkpoints become the run's artifacts."""
        self._budget.ended(name)
        last, best = outcome["last_checkpoint"], outcome["best_checkpoint"]
        began = self._trials[name].began
        wall = None if began is None else time.monotonic() - began
        self._writer.close_run(name, partial(self._finish, name, last, best, wall))

    def failed(self, name: str, cause: str) -> None:
        """The trial raised an error."""
        if self._context.stop.requested or self._writer.is_deleted(name):
            return  # a worker that was told to stop; the study's end closes the run
        self._budget.ended(name, failed=True)
        self.failures[name] = cause
        run_id = self._trials[name].run_id
        self._writer.close_run(name, partial(self._fail, run_id, cause))
        self._progress.ended(name, TrialState.FAILED, cause)

    def held(self, name: str) -> None:
        """The trial ended at a checkpoint, because a limit was reached."""
        self._budget.ended(name)
        limit = self._budget.hold_reason()
        if limit:
            self._budget.leave_out()
        reason = f"held at a checkpoint: {limit}" if limit else "the study was stopped"
        run_id = self._trials[name].run_id
        self._writer.close_run(name, lambda: self._study_run.end_trial(run_id, "KILLED", reason))
        self._progress.ended(name, TrialState.INTERRUPTED, "held at a checkpoint")

    def stopped_early(self, name: str) -> None:
        """Early stopping has given the trial up: it is no failure, and not trained again."""
        self._budget.ended(name)
        run_id = self._trials[name].run_id
        self._writer.close_run(name, lambda: self._study_run.end_early(run_id))
        self._progress.ended(name, TrialState.STOPPED_EARLY, "by its rank among the trials")

    def close(self) -> None:
        """All trials that could be started have ended; wait until everything is in the ledger."""
        if not self._context.stop.requested and self._trials.keys() - self._begun:
            self._budget.leave_out()
        self._writer.drain()

    def cancel(self) -> None:
        """Write nothing more; what the checkpoints remember is recorded when the study goes on."""
        self._writer.cancel()

    def _measurement(
        self, trial: ActiveTrial, history: Sequence[dict[str, float]], wall: float | None
    ) -> str:
        """The device's times that the trial has shown; empty where it was too short to tell. wall:
        its seconds, unless it was interrupted."""
        resources = self._study_run.study.config.resources
        if resources.most_workers > resources.fewest_workers:
            if len(trial.sizes) != 1 or wall is None:
                return ""  # its times are those of several sizes
            resources = replace(resources, workers=trial.workers)
        found = measurement_of_trial(trial.trial, resources, trial.device, history, wall)
        return found.to_json() if found and trial.device else ""

    def _finish(self, name: str, last: str, best: str, wall: float | None) -> None:
        """last, best: where the checkpoints lie, paths or URIs; wall: see `_measurement`."""
        trial = self._trials[name]
        store = self._study_run.store
        self._study_run.check_held()
        self._keep_output(trial.run_id)
        validated = trial.trial.experiment.data.validation_split is not None
        imports = self._study_run.study.config.imports
        with (
            on_this_machine(last, only=[STATE_FILE, WEIGHTS_FILE, RESULTS_DIRECTORY]) as final,
            on_this_machine(best, only=[STATE_FILE, WEIGHTS_FILE]) as chosen,
        ):
            history = read_history(final)
            for metrics in history:  # fills in what was lost on the way here
                if (epoch := int(metrics["epoch"])) not in trial.logged:
                    figures = self._figures(trial, metrics)
                    self._study_run.log_epoch(trial.run_id, epoch, figures)
            self._study_run.confirm_epoch(trial.run_id, history[-1])
            if measurement := self._measurement(trial, history, wall):
                self._study_run.log_measurement(trial.run_id, trial.device, measurement)
            store.log_artifact(trial.run_id, final / RESULTS_DIRECTORY)
            log_models(
                store,
                trial.run_id,
                trial.trial,
                imports,
                final,
                chosen if validated else None,
                history[-1],
            )
        self._study_run.end_trial(trial.run_id, "FINISHED")
        self._progress.ended(name, TrialState.FINISHED)
        self._on_finished()

    def _fail(self, run_id: str, cause: str) -> None:
        self._keep_output(run_id)
        self._study_run.end_trial(run_id, "FAILED", cause)

    def _keep_output(self, run_id: str) -> None:
        output = output_directory(self._context.storage, run_id)
        # Nothing is there where the trial ended before it began.
        with suppress(FileNotFoundError), on_this_machine(output) as directory:
            if directory.exists():
                self._study_run.store.log_artifact(run_id, directory, "logs")

    def _log(self, name: str, metrics: Mapping[str, float]) -> None:
        """Record an epoch once, also when it is trained again after a crash."""
        trial = self._trials[name]
        epoch = int(metrics["epoch"])
        if epoch in trial.logged:
            return
        figures = self._figures(trial, metrics)
        log_epoch = self._study_run.log_epoch
        self._writer.write(name, lambda: log_epoch(trial.run_id, epoch, figures))

    def _figures(self, trial: ActiveTrial, metrics: Mapping[str, float]) -> dict[str, float]:
        """What is recorded of an epoch, which counts as recorded from now on."""
        trial.logged.add(int(metrics["epoch"]))
        figures = {key: value for key, value in metrics.items() if key != "seconds"}
        if "seconds" in metrics:
            trial.hours += (
                max(0.0, metrics["seconds"] - trial.seconds) * trial.devices * trial.workers / 3600
            )
            trial.seconds = max(trial.seconds, metrics["seconds"])
            figures |= {"trial/seconds": trial.seconds, self._hours: trial.hours}
        return figures


def _training_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """The training's own metrics, without what Tune adds to a result."""
    own = ("train/", "val/")
    names = ("epoch", "learning_rate", "images_per_second", "memory_gib", "seconds")
    return {
        key: float(value) for key, value in result.items() if key.startswith(own) or key in names
    }
