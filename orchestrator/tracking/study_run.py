"""Writes a study's runs while a command works on it: its parent run, its trials, its documents."""

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlflow.entities import Run

from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.tracking import tags as tag
from orchestrator.tracking.abandoned import close_abandoned
from orchestrator.tracking.claims import Claim, settle
from orchestrator.tracking.descriptions import outcome_note, run_name, study_note, with_outcome
from orchestrator.tracking.lock import StudyLock, StudyLockLostError
from orchestrator.tracking.mlflow_view import VIEW_TAG, study_view
from orchestrator.tracking.queries import find_experiment, read_snapshot
from orchestrator.tracking.relocation import is_missing
from orchestrator.tracking.runs import ENDED_UNCLOSED, FIGURES, RunStatus, TrialRun, timestamp
from orchestrator.tracking.store import TrackingError, TrackingStore
from orchestrator.tracking.study_page import StudyPage, take_page
from pipelines.data.facts import training_warnings

_SETTLING_SECONDS = 0.5


class StudyRun:
    """A study locked by this process, from `open` to `close`. Methods that write raise
    StudyLockLostError if the process has lost the lock."""

    def __init__(
        self,
        store: TrackingStore,
        study: Study,
        experiment_id: str,
        lock: StudyLock,
        page: StudyPage,
    ) -> None:
        self.store = store
        self.study = study
        self.experiment_id = experiment_id
        self.parent_id = lock.parent_id
        self.page = page
        self._lock = lock

    @staticmethod
    def open(
        store: TrackingStore,
        study: Study,
        on_stop: Callable[[str], None] = lambda why: None,
        say: Callable[[str], None] = lambda message: None,
    ) -> "StudyRun":
        """Lock the study, mark it as running, and close the runs that an earlier process left
        RUNNING when it died. on_stop: called with the reason when this process must stop, say: with
        lines about a wait or a takeover; see `StudyLock`.

        Raises StudyLockedError if another process is running the study.
        """
        experiment_id = _open_experiment(store, study)
        lock = StudyLock.take(store, experiment_id, study.config.study, on_stop, say)
        close_abandoned(store)
        page = take_page(store, lock.parent_id, study.overridden)
        study_run = StudyRun(store, study, experiment_id, lock, page)
        if page.is_own:
            store.client.set_experiment_tag(experiment_id, VIEW_TAG, study_view(study))
        study_run._adopt_orphans()
        study_run._close_left_behind(ENDED_UNCLOSED)
        store.client.log_text(lock.parent_id, study.text, "study.yaml")
        store.client.log_text(lock.parent_id, study.resolved, "study.resolved.yaml")
        return study_run

    @property
    def lost_reason(self) -> str:
        """Why this process no longer holds the study's lock; empty while it does."""
        return self._lock.lost_reason

    def check_lock(self) -> None:
        """Call before writing to a trial's run by other means. Raises StudyLockLostError."""
        self._lock.check()

    def begin_trial(self, trial: ResolvedTrial, commit: str | None, run: TrialRun | None) -> str:
        """Create the trial's run, or reopen its unfinished `run`, as scheduled; return its id."""
        self._lock.check()
        tags = {
            tag.KIND: "trial",
            tag.IDENTITY: trial.identity,
            tag.DATA: trial.dataset.manifest.fingerprint,
            tag.CLAIM: "requested",
            "mlflow.parentRunId": self.parent_id,
        }
        for name, digest in zip((tag.WEIGHTS, tag.INIT), trial.digests, strict=True):
            if digest:
                tags[name] = digest
        data = trial.experiment.data
        scored = self.study.config.scored_splits(data.validation_split)
        warnings = training_warnings(trial.dataset, data.trained_on, scored)
        if warnings:
            tags[tag.DATA_WARNINGS] = "\n".join(warnings)
        if commit:
            tags["mlflow.source.git.commit"] = commit
        client = self.store.client
        if run is not None:
            client.update_run(run.run_id, "SCHEDULED")
            ended = dict.fromkeys((tag.STOPPED, tag.REASON, tag.STARTED, tag.ENDED), "")
            self.store.set_tags(run.run_id, {**tags, **ended})
            self.rename_trial(client.get_run(run.run_id), trial)
            if not run.dataset:  # the process that created it was interrupted
                self._describe(run.run_id, trial)
            return run.run_id
        # The tags include the claim, so that the run never exists without it.
        created = client.create_run(
            self.experiment_id, run_name=run_name(trial), tags={**tags, **tag.trial_tags(trial)}
        )
        run_id = str(created.info.run_id)
        self._describe(run_id, trial)
        client.update_run(run_id, "SCHEDULED")
        return run_id

    def rename_trial(self, run: Run, trial: ResolvedTrial) -> None:
        """Give a trial's run the trial's present name, label and cell, if they have changed."""
        tags = tag.changed_trial_tags(run.data.tags, trial)
        if tags:
            self._lock.check()
            # The tags last: a run with an earlier name has earlier tags, and is renamed again.
            self.store.client.update_run(run.info.run_id, name=run_name(trial))
            self.store.set_tags(run.info.run_id, tags)

    def _describe(self, run_id: str, trial: ResolvedTrial) -> None:
        """Record the settings, the network's cost and the data set of a trial's run."""
        cost = {"model/parameters_m": trial.cost.parameters_m, "model/gflops": trial.cost.gflops}
        data = trial.experiment.data
        # The settings last: a run without them is described again.
        self.store.log_dataset(run_id, trial.dataset, (data.trained_on, data.validation_split))
        self.store.log(run_id, _flattened(asdict(trial.experiment)), cost)

    def settle_claims(self, trials: Mapping[str, ResolvedTrial]) -> set[str]:
        """Make sure that no process of another study trains the same trials. trials: by run id.

        Returns the ids of the runs that must give way because another process is training the
        trial or has finished it.
        """
        if not self._other_studies_run():
            return set()
        lost: set[str] = set()
        open_claims = dict(trials)
        while open_claims:
            snapshot = read_snapshot(self.store, trust_clocks=False)
            runs = snapshot.by_identity(trial.identity for trial in open_claims.values())
            for run_id, trial in list(open_claims.items()):
                others = [run for run in runs.get(trial.identity, []) if run.run_id != run_id]
                done = any(run.status == "FINISHED" and run.code == trial.code for run in others)
                rivals = [Claim(run.run_id, run.claimed) for run in others if run.active_elsewhere]
                verdict = "give way" if done else settle(run_id, rivals)
                if verdict == "wait":
                    continue
                if verdict == "give way":
                    lost.add(run_id)
                else:
                    self.store.set_tags(run_id, {tag.CLAIM: "held"})
                del open_claims[run_id]
            if open_claims:
                time.sleep(_SETTLING_SECONDS)
        return lost

    def withdraw_trial(self, run_id: str, run: TrialRun | None) -> None:
        """Undo `begin_trial`, given the same `run`."""
        self._lock.check()
        if run is None:
            self.store.client.delete_run(run_id)
        else:
            self.end_trial(run_id, "KILLED", "another study is training it")

    def start_trial(self, run_id: str, code: str) -> None:
        """Mark the trial as running; call this when its processes start. code: the current version;
        a trial that resumes under another version keeps both."""
        self.record_code(run_id, code)
        self.store.set_tags(run_id, {tag.CLAIM: "held", tag.STARTED: timestamp()})
        self.store.client.update_run(run_id, "RUNNING")

    def record_code(self, run_id: str, code: str) -> None:
        """Append the version of the code that trains the run, unless it is recorded last."""
        self._append(run_id, tag.CODE, code)

    def record_workers(self, run_id: str, workers: int) -> None:
        """Append the number of workers that train the run, unless it is recorded last."""
        self._append(run_id, tag.WORKERS, str(workers))

    def _append(self, run_id: str, key: str, value: str) -> None:
        """Append a value to those that a tag lists, unless it is the last one or empty."""
        self._lock.check()
        recorded = self.store.client.get_run(run_id).data.tags.get(key, "")
        values = recorded.split("+") if recorded else []
        if value and value not in values[-1:]:
            values.append(value)
        self.store.set_tags(run_id, {key: "+".join(values)})

    def log_epoch(
        self, run_id: str, epoch: int, metrics: Mapping[str, float], time_ms: int | None = None
    ) -> None:
        """Record one epoch's metrics at step `epoch`, in one batch.

        time_ms: see `now_ms`; by default now. Repeated with the same time, after an error that left
        open whether the store has them, it adds nothing that the store has.
        """
        self._lock.check()
        self.store.log_metrics(run_id, {**metrics, "epoch": epoch}, epoch, time_ms=time_ms)

    def log_time(self, run_id: str, epoch: int, metrics: Mapping[str, float], time_ms: int) -> None:
        """Record the time that a trial has used in an unfinished epoch, at the step of the finished
        ones. time_ms: as for `log_epoch`."""
        self._lock.check()
        self.store.log_metrics(run_id, metrics, epoch, time_ms=time_ms)

    def confirm_epoch(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Make the run's latest metrics those of its last checkpoint.

        They differ if the epoch was recorded, lost in a crash, and trained again on a GPU that sums
        in another order.
        """
        scores = {k: v for k, v in metrics.items() if k.startswith(("train/", "val/"))}
        if not self.store.latest_metrics_are(run_id, scores):
            self.log_epoch(run_id, int(metrics["epoch"]), scores)

    def logged_epochs(self, run: TrialRun | None) -> set[int]:
        """Return the epochs recorded so far; empty without a run."""
        if run is None:
            return set()
        history = self.store.client.get_metric_history(run.run_id, "epoch")
        return {metric.step for metric in history if metric.step > 0}

    def end_trial(self, run_id: str, status: RunStatus, reason: str = "") -> None:
        """Close a trial's run; `reason` goes into a tag and into the run's description."""
        self._lock.check()
        run = self.store.client.get_run(run_id)
        note = run.data.tags.get("mlflow.note.content", "")
        tags = {
            tag.REASON: reason,
            "mlflow.note.content": with_outcome(
                note, outcome_note(status, reason, tag.CODE in run.data.tags)
            ),
        }
        self.store.end_run(run, status, tags)

    def end_early(self, run_id: str) -> None:
        """Close the run of a trial that early stopping ended: neither failed nor finished."""
        self._lock.check()
        self.store.set_tags(run_id, {tag.STOPPED: "early"})
        self.end_trial(run_id, "KILLED", "stopped early, by its rank among the study's trials")

    def log_measurement(self, run_id: str, device: str, measurement: str) -> None:
        """Record a finished trial's device and timings."""
        self._lock.check()
        self.store.set_tags(run_id, {tag.DEVICE: device, tag.MEASUREMENT: measurement})

    def record_command(self, command: str) -> None:
        """Record the arguments of this command, for `StudySummary.command`."""
        self.store.set_tags(self.parent_id, {tag.COMMAND: command})

    def describe_trial(self, run_id: str, note: str) -> None:
        """Set a trial's description, in markdown."""
        self.store.set_tags(run_id, {"mlflow.note.content": note})

    def describe(self, table: str) -> None:
        """Show the study's description and `table` (markdown) on MLflow's pages of the experiment
        and of the parent run."""
        self._lock.check()
        note = study_note(self.study, table, self.parent_id, self.experiment_id)
        self.store.set_tags(self.parent_id, {"mlflow.note.content": note})
        self.store.client.set_experiment_tag(self.experiment_id, "mlflow.note.content", note)

    def close_trials(self, reason: str = "") -> None:
        """Close the study's open trials, which nothing trains any more, as interrupted; does
        nothing if the lock was lost. reason: the limit that stopped them; by default the user."""
        with suppress(StudyLockLostError):
            self._close_left_behind(reason or "the study was stopped; rerun the command to resume")

    def close(self, status: RunStatus) -> None:
        """Close the parent run with `status`, or with its previous status if its page shows another
        table. Closes the study's RUNNING trials too, unless the lock was lost."""
        previous = self._lock.previous_status
        final = status if self.page.is_own or previous == "RUNNING" else previous
        try:
            self.close_trials()
        except BaseException:
            with suppress(TrackingError):  # the first error says why; the heartbeats must end
                self._lock.end(final)
            raise
        self._lock.end(final)

    def _other_studies_run(self) -> bool:
        query = f"tags.`{tag.KIND}` = 'study' and attributes.status = 'RUNNING'"
        parents = self.store.search(list(self.store.experiment_names()), query)
        return any(self.store.liveness.lock_holder(parent) for parent in parents)

    def _close_left_behind(self, reason: str) -> None:
        for status in ("RUNNING", "SCHEDULED"):
            query = f"tags.`{tag.KIND}` = 'trial' and attributes.status = '{status}'"
            for run in self.store.search([self.experiment_id], query):
                self.end_trial(run.info.run_id, "KILLED", reason)

    def _adopt_orphans(self) -> None:
        """Move trials whose parent run was deleted in MLflow under the current one."""
        query = f"tags.`mlflow.parentRunId` != '{self.parent_id}'"
        for run in self.store.search([self.experiment_id], query):
            self.store.set_tags(run.info.run_id, {"mlflow.parentRunId": self.parent_id})


def _open_experiment(store: TrackingStore, study: Study) -> str:
    """Return the id of the study's experiment; create it if necessary."""
    name = study.config.study
    experiment = find_experiment(store, name)
    folder = None
    if store.artifacts is not None:
        folder = store.artifacts / re.sub(r"[^\w.-]+", "-", name)
        # A moved storage is recognized by the folder; one that is used from another is not moved.
        if experiment is None or is_missing(experiment.artifact_location):
            folder.mkdir(parents=True, exist_ok=True)
    if experiment is None:
        store.make_experiment(name, folder.as_uri() if folder else None)
        experiment = find_experiment(store, name)
    assert experiment is not None
    # Without a kind, MLflow shows the experiment as one about language models.
    tags = {tag.KIND: "study", "mlflow.experimentKind": "custom_model_development"}
    for key, value in tags.items():
        if experiment.tags.get(key) != value:
            store.client.set_experiment_tag(experiment.experiment_id, key, value)
    return str(experiment.experiment_id)


def _flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values by dotted key. A mapping by patterns, such as `backbone.*`, is one value,
    because a tracking store rejects such names."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and all(str(name).isidentifier() for name in value):
            flat |= _flattened(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def has_figure(study_run: StudyRun, kind: str, drawn_from: Sequence[str]) -> bool:
    """Whether the study's run holds this figure, drawn from the same inputs."""
    tags = study_run.store.client.get_run(study_run.parent_id).data.tags
    return bool(tags.get(f"{tag.FIGURE}{kind}") == _digest(drawn_from))


def keep_figure(study_run: StudyRun, kind: str, drawn_from: Sequence[str], directory: Path) -> None:
    """Copy the files of `directory` into `figures/` of the study's run."""
    study_run.store.log_artifact(study_run.parent_id, directory, FIGURES)
    tags = {f"{tag.FIGURE}{kind}": _digest(drawn_from)}
    study_run.store.set_tags(study_run.parent_id, tags)


def _digest(drawn_from: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(drawn_from).encode()).hexdigest()[:16]
