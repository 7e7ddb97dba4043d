"""Records the events of the trials in the tracking store, and shows them."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from orchestrator.context import RunContext
from orchestrator.planning.measurements import measurement_of_trial
from orchestrator.scheduling.budget import Budget
from orchestrator.storage import local_copy
from orchestrator.study.identity import code_version
from orchestrator.study.trial_state import TrialState
from orchestrator.study.user_code import modules_of
from orchestrator.sweep.active_trial import ActiveTrial
from orchestrator.sweep.disk_space import DiskSpace, disk_full_message
from orchestrator.sweep.mirrors import Mirrors
from orchestrator.sweep.progress import StudyProgress
from orchestrator.sweep.run_writer import RunWriter
from orchestrator.tracking.models import log_models
from orchestrator.tracking.store import now_ms
from orchestrator.tracking.study_run import StudyRun
from orchestrator.training.failures import Failure
from orchestrator.training.stop_file import StopFile
from orchestrator.training.worker import CODE, DEVICE, RESULTS_DIRECTORY, WORKERS
from orchestrator.training.worker_logs import output_directory
from pipelines.network.checkpoint import read_history
from pipelines.network.file_names import STATE_FILE, WEIGHTS_FILE

# How long trials may take to write a checkpoint after a stop request.
GRACE_SECONDS = 60.0


class Recorder:
    """Implements `training.events.TrialEvents`. Writes to the tracking store in the background;
    `close` waits until everything is written."""

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
        space: DiskSpace | None = None,
    ) -> None:
        """trials: by trial name. stop: the file that the workers watch. on_finished: called from
        the writer thread each time a finished trial is completely recorded. space: of the disk that
        the trials fill."""
        self.failures: dict[str, str] = {}
        self._study_run = study_run
        self._progress = progress
        self._trials = trials
        self._context = context
        self._budget = budget
        self._space = space
        self._hours_metric = "trial/gpu_hours" if on_gpu else "trial/worker_hours"
        self._on_finished = on_finished
        self._started: set[str] = set()
        self._stop_file = stop
        self._stopping_since: float | None = None
        run_ids = {name: trial.run_id for name, trial in trials.items()}
        self._writer = RunWriter(study_run, run_ids, progress, self.failures)
        config = study_run.study.config
        self._mirrors = Mirrors(config.mirror, config.study, progress.say)

    def stop_requested(self) -> bool:
        """Whether to end the trials now. This is `GRACE_SECONDS` after the user's request, because
        the trials first get time to write a checkpoint and end by themselves.

        A pause ends the trials that may wait for machines in the same way, once all others have
        ended, because a trial that waits reports nothing at which it could end. One that has found
        its machines meanwhile writes a checkpoint within its epoch.
        """
        if not self._context.stop.requested and not (self._pause_needed() and self._budget.idle()):
            return False
        if self._stopping_since is None:
            self._stopping_since = time.monotonic()
            self._stop_file.request()
        return time.monotonic() - self._stopping_since > GRACE_SECONDS

    def pause_requested(self) -> bool:
        """Whether the user has requested a stop, a limit of the study is reached, or the disk is
        nearly full."""
        return self._context.stop.requested or self._pause_needed()

    def _pause_needed(self) -> bool:
        if self._space is not None and (shortage := self._space.shortage()):
            self._pause(shortage)
        return self._budget.pause_reason() is not None

    def may_start(self, pending: int) -> bool:
        """Whether the limits allow another trial."""
        return self._budget.may_start(pending)

    def unwanted(self, name: str) -> bool:
        """Whether the trial's run was deleted in MLflow while it trained."""
        return self._writer.is_deleted(name)

    def started(self, name: str) -> None:
        """Ray is starting the trial's processes."""
        resources = self._study_run.study.config.resources
        self._budget.started(name, waits=resources.most_workers > 1)
        self._started.add(name)
        trial = self._trials[name]
        resumes = trial.logged or trial.seconds  # from a checkpoint, maybe within the first epoch
        trial.started_at = None if resumes else time.monotonic()
        imports = self._study_run.study.config.imports
        with suppress(OSError):  # a source file was removed; the trial reports that
            trial.code = code_version(
                modules_of(trial.trial.experiment, imports), trial.trial.experiment.libraries
            )
        start = partial(self._study_run.start_trial, trial.run_id, trial.code)
        self._writer.write(name, start)
        self._progress.started(name)

    def epoch(self, name: str, metrics: dict[str, Any]) -> None:
        """The trial has reported an epoch."""
        own_metrics = _training_metrics(metrics)
        self._note_report(name, metrics)
        self._log_epoch(name, own_metrics)
        self._progress.epoch(name, int(own_metrics["epoch"]), own_metrics)

    def notice(self, name: str, message: str) -> None:
        """The trial has something to tell the user before it trains."""
        self._progress.warn(f"{name}: {message}")

    def checkpoint(self, name: str, metrics: dict[str, Any]) -> None:
        """The trial has stored a checkpoint within an epoch. Its hours are recorded, because the
        epoch may end in another command, which has the same limit of hours."""
        self._note_report(name, metrics)
        trial = self._trials[name]
        log_time = partial(
            self._study_run.log_time,
            trial.run_id,
            max(trial.logged, default=0),
            trial.time_metrics(metrics, self._hours_metric),
            now_ms(),
        )
        self._writer.write(name, log_time)

    def _note_report(self, name: str, metrics: Mapping[str, Any]) -> None:
        """Record which workers and sources made a report, and count their time in the budget."""
        trial = self._trials[name]
        trial.device = metrics.get(DEVICE, "")
        trial.workers = metrics.get(WORKERS, trial.workers)
        if (code := metrics.get(CODE, trial.code)) != trial.code:  # the sources were edited
            trial.code = code
            self._writer.write(name, partial(self._study_run.record_code, trial.run_id, code))
        if trial.workers not in trial.sizes:
            trial.sizes.add(trial.workers)
            record = partial(self._study_run.record_workers, trial.run_id, trial.workers)
            self._writer.write(name, record)
        seconds = max(0.0, metrics.get("seconds", 0.0) - trial.seconds)
        self._budget.worked(name, trial.devices * trial.workers, seconds)

    def interrupted(self, name: str) -> None:
        """The trial has lost its workers; another attempt waits for others."""
        self._budget.interrupted(name)
        self._progress.interrupted(name)

    def finished(self, name: str, outcome: dict[str, Any]) -> None:
        """The trial has reached its last epoch; its checkpoints become the run's artifacts."""
        self._budget.ended(name)
        last, best = outcome["last_checkpoint"], outcome["best_checkpoint"]
        started_at = self._trials[name].started_at
        seconds = None if started_at is None else time.monotonic() - started_at
        self._writer.close_run(name, partial(self._finish, name, last, best, seconds))

    def failed(self, name: str, failure: Failure) -> None:
        """The trial has failed, and is not retried."""
        if self._context.stop.requested or self._writer.is_deleted(name):
            return  # a consequence of the stop; the study's end closes the run
        if failure.cause == "disk full":
            self._pause(disk_full_message(self._context.storage))
            return self.paused(name)
        self._budget.ended(name, failed=True)
        self.failures[name] = failure.message
        run_id = self._trials[name].run_id
        self._writer.close_run(name, partial(self._fail, run_id, failure.message))
        self._mirrors.end(run_id, False)
        self._progress.ended(name, TrialState.FAILED, failure.message)

    def paused(self, name: str) -> None:
        """The trial has ended at a checkpoint, because a limit was reached."""
        self._budget.ended(name)
        limit = self._budget.pause_reason()
        if limit:
            self._budget.leave_out()
        reason = f"stopped at a checkpoint: {limit}" if limit else "the study was stopped"
        run_id = self._trials[name].run_id
        self._writer.close_run(name, lambda: self._study_run.end_trial(run_id, "KILLED", reason))
        self._mirrors.end(run_id, False)
        self._progress.ended(name, TrialState.INTERRUPTED, "stopped at a checkpoint")

    def _pause(self, reason: str) -> None:
        """End all trials at their next checkpoint; print the reason once."""
        if self._budget.pause_reason() is None:
            self._progress.say(reason)
        self._budget.pause(reason)

    def stopped_early(self, name: str) -> None:
        """Early stopping has ended the trial; it has not failed, and is not trained again."""
        self._budget.ended(name)
        run_id = self._trials[name].run_id
        self._writer.close_run(name, lambda: self._study_run.end_early(run_id))
        self._mirrors.end(run_id, True)
        self._progress.ended(name, TrialState.STOPPED_EARLY, "by its rank among the trials")

    def close(self) -> None:
        """All trials that could start have ended; wait until everything is recorded."""
        if not self._context.stop.requested and self._trials.keys() - self._started:
            self._budget.leave_out()
        self._writer.drain()
        self._mirrors.close()

    def cancel(self) -> None:
        """Stop writing; the checkpoints' history is recorded when the study resumes."""
        self._writer.cancel()
        self._mirrors.cancel()

    def _measurement(
        self, trial: ActiveTrial, history: Sequence[dict[str, float]], seconds: float | None
    ) -> str:
        """Return the trial's timings in JSON; empty if it was too short. seconds: its duration;
        None if it was interrupted."""
        resources = self._study_run.study.config.resources
        if resources.most_workers > resources.fewest_workers:
            if len(trial.sizes) != 1 or seconds is None:
                return ""  # its timings mix several numbers of workers
            resources = replace(resources, workers=trial.workers)
        measurement = measurement_of_trial(trial.trial, resources, trial.device, history, seconds)
        return measurement.to_json() if measurement and trial.device else ""

    def _finish(self, name: str, last: str, best: str, seconds: float | None) -> None:
        """Record a finished trial. last, best: paths or URIs of its checkpoints; seconds: see
        `_measurement`."""
        trial = self._trials[name]
        store = self._study_run.store
        self._study_run.check_lock()
        self._log_output(trial.run_id)
        validated = trial.trial.experiment.data.validation_split is not None
        imports = self._study_run.study.config.imports
        with (
            local_copy(last, only=[STATE_FILE, WEIGHTS_FILE, RESULTS_DIRECTORY]) as final,
            local_copy(best, only=[STATE_FILE, WEIGHTS_FILE]) as chosen,
        ):
            history = read_history(final)
            for metrics in history:  # record epochs whose reports were lost
                if (epoch := int(metrics["epoch"])) not in trial.logged:
                    to_log = trial.epoch_metrics(metrics, self._hours_metric)
                    self._study_run.log_epoch(trial.run_id, epoch, to_log)
                    self._mirrors.log(trial.trial, trial.run_id, to_log)
            self._study_run.confirm_epoch(trial.run_id, history[-1])
            if measurement := self._measurement(trial, history, seconds):
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
        self._mirrors.end(trial.run_id, True)
        self._progress.ended(name, TrialState.FINISHED)
        self._on_finished()

    def _fail(self, run_id: str, cause: str) -> None:
        self._log_output(run_id)
        self._study_run.end_trial(run_id, "FAILED", cause)

    def _log_output(self, run_id: str) -> None:
        output = output_directory(self._context.storage, run_id)
        # The directory is missing if the trial ended before its workers started.
        with suppress(FileNotFoundError), local_copy(output) as directory:
            if directory.exists():
                self._study_run.store.log_artifact(run_id, directory, "logs")

    def _log_epoch(self, name: str, metrics: Mapping[str, float]) -> None:
        """Record an epoch, unless it was recorded before a crash and is being trained again."""
        trial = self._trials[name]
        epoch = int(metrics["epoch"])
        if epoch in trial.logged:
            return
        to_log = trial.epoch_metrics(metrics, self._hours_metric)
        # With the time of now, a retry adds nothing if only the store's answer was lost.
        log_epoch = partial(self._study_run.log_epoch, trial.run_id, epoch, to_log, now_ms())
        self._writer.write(name, log_epoch)
        self._mirrors.log(trial.trial, trial.run_id, to_log)


def _training_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the training's own metrics, without those that Tune adds."""
    prefixes = ("train/", "val/")
    names = ("epoch", "learning_rate", "images_per_second", "memory_gib", "seconds")
    return {
        key: float(value)
        for key, value in result.items()
        if key.startswith(prefixes) or key in names
    }
