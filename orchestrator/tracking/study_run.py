"""A study while a command works on it: the runs of its trials, and its documents."""

import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.study.resolve import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.tracking import tags as tag
from orchestrator.tracking.claims import Claim, settle
from orchestrator.tracking.descriptions import reason_of_end, run_name, study_note, with_state
from orchestrator.tracking.lock import StudyLock, StudyLockLostError, close_abandoned
from orchestrator.tracking.mlflow_view import VIEW_TAG, study_view
from orchestrator.tracking.queries import take_snapshot
from orchestrator.tracking.runs import (
    FIGURES,
    RunStatus,
    TrialRun,
    lock_holder,
)
from orchestrator.tracking.store import TrackingError, TrackingStore
from orchestrator.tracking.study_page import StudyPage, take_page

_SETTLING_SECONDS = 0.5


class StudyRun:
    """A study in the hands of this process, from `open` to `close`. It alone writes to it: what
    writes raises StudyLockLostError where the process has lost it."""

    def __init__(
        self,
        store: TrackingStore,
        study: Study,
        experiment_id: str,
        session: StudyLock,
        page: StudyPage,
    ) -> None:
        """page: of the study, see `StudyPage`."""
        self.store = store
        self.study = study
        self.experiment_id = experiment_id
        self.parent_id = session.parent_id
        self.page = page
        self._session = session

    @staticmethod
    def open(
        store: TrackingStore, study: Study, on_stop: Callable[[str], None] = lambda why: None
    ) -> "StudyRun":
        """Take the study, say that it is running, and close what an earlier process left RUNNING
        when it died. on_stop: called with the reason when this process must stop, see `StudyLock`.

        Raises StudyLockedError where another process is at work on the study right now.
        """
        close_abandoned(store)
        experiment_id = _open_experiment(store, study)
        session = StudyLock.take(store, experiment_id, study.config.study, on_stop)
        page = take_page(store, session.parent_id, study.overridden)
        study_run = StudyRun(store, study, experiment_id, session, page)
        if page.is_own:
            store.client.set_experiment_tag(experiment_id, VIEW_TAG, study_view(study))
        study_run._adopt_orphans()
        study_run._close_left_behind("its process ended without closing it")
        store.client.log_text(session.parent_id, study.text, "study.yaml")
        store.client.log_text(session.parent_id, study.resolved, "study.resolved.yaml")
        return study_run

    @property
    def taken(self) -> str:
        """Who has taken the study from this process, in a sentence; empty while nobody has."""
        return self._session.taken

    def check_held(self) -> None:
        """Before writing to a trial's run by other ways. Raises StudyLockLostError."""
        self._session.check()

    def begin_trial(self, trial: ResolvedTrial, commit: str | None, record: TrialRun | None) -> str:
        """Make the trial's run, or reopen the unfinished one of `record`, as scheduled. Returns the
        run's id."""
        self._session.check()
        tags = {
            f"{tag.KIND}": "trial",
            tag.TRIAL: trial.name,
            tag.IDENTITY: trial.identity,
            tag.DATA: trial.dataset.manifest.fingerprint,
            tag.VARIANT: trial.variant,
            tag.SEED: str(trial.experiment.seed),
            **{f"{tag.AXIS}{axis}": str(value) for axis, value in trial.axes.items()},
            tag.CLAIM: "asked",
            tag.STOPPED: "",
            tag.REASON: "",
            "mlflow.parentRunId": self.parent_id,
        }
        for name, digest in zip((tag.WEIGHTS, tag.INIT), trial.digests, strict=True):
            if digest:
                tags[name] = digest
        if commit:
            tags["mlflow.source.git.commit"] = commit
        client = self.store.client
        if record is not None:
            client.update_run(record.run_id, "SCHEDULED")
            self.store.set_tags(record.run_id, tags)
            return record.run_id
        # The claim is there from the first moment on that the run is.
        run = client.create_run(self.experiment_id, run_name=run_name(trial), tags=tags)
        cost = {"model/parameters_m": trial.cost.parameters_m, "model/gflops": trial.cost.gflops}
        self.store.log(run.info.run_id, _flattened(asdict(trial.experiment)), cost)
        client.update_run(run.info.run_id, "SCHEDULED")
        return str(run.info.run_id)

    def settle_claims(self, trials: Mapping[str, ResolvedTrial]) -> set[str]:
        """Make sure that no other study's process trains the same. trials: by the id of the run
        that was begun for each. Returns the ids of the runs that must give way: another process
        trains the trial, or has finished it."""
        if not self._others_at_work():
            return set()
        lost: set[str] = set()
        open_claims = dict(trials)
        while open_claims:
            snapshot = take_snapshot(self.store)
            known = snapshot.by_identity(trial.identity for trial in open_claims.values())
            for run_id, trial in list(open_claims.items()):
                others = [r for r in known.get(trial.identity, []) if r.run_id != run_id]
                done = any(r.status == "FINISHED" and r.code == trial.code for r in others)
                rivals = [Claim(r.run_id, r.claimed) for r in others if r.in_work]
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

    def withdraw_trial(self, run_id: str, record: TrialRun | None) -> None:
        """Take back what `begin_trial` did with `record`."""
        self._session.check()
        if record is None:
            self.store.client.delete_run(run_id)
        else:
            self.end_trial(run_id, "KILLED", "another study trains it")

    def start_trial(self, run_id: str, code: str) -> None:
        """The trial's processes are being started, with the sources as they are now (`code`). One
        that goes on under other sources than it began with bears both versions."""
        self.note_code(run_id, code)
        self.store.set_tags(run_id, {tag.CLAIM: "held"})
        self.store.client.update_run(run_id, "RUNNING")

    def note_code(self, run_id: str, code: str) -> None:
        """The trial's workers have another version of the sources than is noted: it bears both."""
        self._session.check()
        before = self.store.client.get_run(run_id).data.tags.get(tag.CODE, "")
        versions = before.split("+") if before else []
        if code not in versions[-1:]:
            versions.append(code)
        self.store.set_tags(run_id, {tag.CODE: "+".join(versions)})

    def log_epoch(self, run_id: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """Record one epoch's metrics at step `epoch`, in one batch."""
        self._session.check()
        self.store.log_metrics(run_id, {**metrics, "epoch": epoch}, step=epoch)

    def confirm_epoch(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Make the run's latest figures those of its last checkpoint. They are others where the
        epoch was recorded, lost in a crash, and trained again by a GPU that adds in another order.
        """
        figures = {k: v for k, v in metrics.items() if k.startswith(("train/", "val/"))}
        if not self.store.holds(run_id, figures):
            self.log_epoch(run_id, int(metrics["epoch"]), figures)

    def logged_epochs(self, record: TrialRun | None) -> set[int]:
        """The epochs recorded so far; none for a run that is not there yet."""
        if record is None:
            return set()
        history = self.store.client.get_metric_history(record.run_id, "epoch")
        return {metric.step for metric in history if metric.step > 0}

    def end_trial(self, run_id: str, status: RunStatus, reason: str = "") -> None:
        """Close a trial's run; `reason` is kept in a tag and stands in the run's description."""
        self._session.check()
        note = self.store.client.get_run(run_id).data.tags.get("mlflow.note.content", "")
        tags = {
            tag.REASON: reason,
            tag.CLAIM: "",
            "mlflow.note.content": with_state(note, reason_of_end(status, reason)),
        }
        self.store.set_tags(run_id, tags)
        self.store.client.set_terminated(run_id, status)

    def end_early(self, run_id: str) -> None:
        """Close the run of a trial that early stopping has given up: no failure, and not a finished
        training that a table could show."""
        self._session.check()
        self.store.set_tags(run_id, {tag.STOPPED: "early"})
        self.end_trial(run_id, "KILLED", "stopped early, by its rank among the study's trials")

    def log_measurement(self, run_id: str, device: str, measurement: str) -> None:
        """Record on what a finished trial ran, and its times."""
        self._session.check()
        self.store.set_tags(run_id, {tag.DEVICE: device, tag.MEASUREMENT: measurement})

    def note_command(self, command: str) -> None:
        """Keep how the study is run, for `StudySummary.command`."""
        self.store.set_tags(self.parent_id, {tag.COMMAND: command})

    def describe_trial(self, run_id: str, note: str) -> None:
        """Set a trial's description, in markdown."""
        self.store.set_tags(run_id, {"mlflow.note.content": note})

    def describe(self, table: str) -> None:
        """Show the study's description, its state and a table, in markdown, where MLflow shows the
        study and its run."""
        self._session.check()
        note = study_note(self.study, table, self.parent_id, self.experiment_id)
        self.store.set_tags(self.parent_id, {"mlflow.note.content": note})
        self.store.client.set_experiment_tag(self.experiment_id, "mlflow.note.content", note)

    def close(self, status: RunStatus) -> None:
        """End the study's run: with `status`, or as it was found where its page shows another
        table. No trial of it stays RUNNING, but where another process trains it by now."""
        with suppress(StudyLockLostError):
            self._close_left_behind("the study was stopped; run it again to go on")
        found = self._session.found
        self._session.end(status if self.page.is_own or found == "RUNNING" else found)

    def _others_at_work(self) -> bool:
        query = f"tags.`{tag.KIND}` = 'study' and attributes.status = 'RUNNING'"
        parents = self.store.search(list(self.store.studies()), query)
        return any(lock_holder(parent) for parent in parents)

    def _close_left_behind(self, reason: str) -> None:
        for status in ("RUNNING", "SCHEDULED"):
            query = f"tags.`{tag.KIND}` = 'trial' and attributes.status = '{status}'"
            for run in self.store.search([self.experiment_id], query):
                self.end_trial(run.info.run_id, "KILLED", reason)

    def _adopt_orphans(self) -> None:
        """Trials whose parent run was deleted in MLflow stand under the present one."""
        query = f"tags.`mlflow.parentRunId` != '{self.parent_id}'"
        for run in self.store.search([self.experiment_id], query):
            self.store.set_tags(run.info.run_id, {"mlflow.parentRunId": self.parent_id})


def _open_experiment(store: TrackingStore, study: Study) -> str:
    """The id of the study's experiment, made where there is none."""
    client, name = store.client, study.config.study
    if client.get_experiment_by_name(name) is None:
        location = None
        if store.artifacts is not None:
            location = (store.artifacts / re.sub(r"[^\w.-]+", "-", name)).as_uri()
        store.make_experiment(name, location)
    experiment = client.get_experiment_by_name(name)
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"the study {name!r} was deleted in MLflow; restore or purge it there, "
            "or give the study another name"
        )
    # With its kind unsaid, MLflow shows an experiment as one about language models.
    client.set_experiment_tag(
        experiment.experiment_id, "mlflow.experimentKind", "custom_model_development"
    )
    return str(experiment.experiment_id)


def _flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flattened(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def has_figure(study_run: StudyRun, kind: str, drawn_from: Sequence[str]) -> bool:
    """Whether the study's run holds this figure, drawn from the same."""
    tags = study_run.store.client.get_run(study_run.parent_id).data.tags
    return bool(tags.get(f"{tag.FIGURE}{kind}") == _digest(drawn_from))


def keep_figure(study_run: StudyRun, kind: str, drawn_from: Sequence[str], directory: Path) -> None:
    """Copy the files of `directory` to `figures/` of the study's run."""
    study_run.store.log_artifact(study_run.parent_id, directory, FIGURES)
    tags = {f"{tag.FIGURE}{kind}": _digest(drawn_from)}
    study_run.store.set_tags(study_run.parent_id, tags)


def _digest(drawn_from: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(drawn_from).encode()).hexdigest()[:16]
