"""A study while a command works on it: its parent run, its heartbeat, its trials' runs."""

import re
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from orchestrator.cells import Cell
from orchestrator.ledger.records import TAG, Record, RunStatus
from orchestrator.ledger.store import Ledger, LedgerError
from orchestrator.ownership import HEARTBEAT_SECONDS, Owner
from orchestrator.study import Plan


class StudyRun:
    """A study in the hands of this process, from `open` to `close`. It alone writes to it."""

    def __init__(self, ledger: Ledger, experiment_id: str, parent_id: str) -> None:
        self.ledger = ledger
        self.experiment_id = experiment_id
        self.parent_id = parent_id
        self._stop_heartbeat = threading.Event()
        self._heartbeat = threading.Thread(target=self._keep_beating, daemon=True)

    @staticmethod
    def open(ledger: Ledger, plan: Plan) -> "StudyRun":
        """Find or make the study's parent run, and say that it is running.

        Closes what an earlier process left RUNNING when it died. Raises LedgerError where another
        process is at work on the study right now.
        """
        client, name = ledger.client, plan.study.study
        experiment_id = _open_experiment(ledger, plan)
        parents = ledger.search([experiment_id], f"tags.`{TAG}kind` = 'study'")
        if parents:
            parent = max(parents, key=lambda run: run.info.start_time)
            _refuse_if_at_work(parent, name)
            parent_id = parent.info.run_id
            client.update_run(parent_id, "RUNNING")
        else:
            tags = {f"{TAG}kind": "study", "mlflow.note.content": plan.study.description}
            parent_id = client.create_run(experiment_id, tags=tags, run_name=name).info.run_id
        study_run = StudyRun(ledger, experiment_id, parent_id)
        study_run._beat()
        study_run._close_left_behind("an earlier process ended without closing it")
        client.log_text(parent_id, plan.text, "study.yaml")
        study_run._heartbeat.start()
        return study_run

    def begin_trial(self, cell: Cell, commit: str | None, record: Record | None) -> str:
        """Make the trial's run, or reopen the unfinished one of `record`, as scheduled. Returns the
        run's id."""
        trial = cell.trial
        tags = {
            f"{TAG}kind": "trial",
            f"{TAG}identity": cell.identity,
            f"{TAG}code": cell.code,
            f"{TAG}data": cell.dataset.manifest.fingerprint,
            f"{TAG}variant": trial.variant,
            f"{TAG}seed": str(trial.experiment.seed),
            **{f"{TAG}axis.{axis}": str(value) for axis, value in trial.axes.items()},
            "mlflow.parentRunId": self.parent_id,
            "mlflow.note.content": "",
        }
        for name, digest in zip(("weights", "init"), cell.digests, strict=True):
            if digest:
                tags[f"{TAG}{name}"] = digest
        if commit:
            tags["mlflow.source.git.commit"] = commit
        client = self.ledger.client
        if record is not None:
            run_id = record.run_id
        else:
            run_id = client.create_run(self.experiment_id, run_name=trial.name).info.run_id
            self.ledger.log_params(run_id, _flattened(asdict(trial.experiment)))
            cost = {
                "model/parameters_m": cell.cost.parameters_m,
                "model/gflops": cell.cost.gflops,
            }
            self.ledger.log_metrics(run_id, cost, step=0)
        self.ledger.set_tags(run_id, tags)
        client.update_run(run_id, "SCHEDULED")
        return str(run_id)

    def start_trial(self, run_id: str, code: str) -> None:
        """The trial's processes are being started, with the sources as they are now (`code`)."""
        self.ledger.client.set_tag(run_id, f"{TAG}code", code)
        self.ledger.client.update_run(run_id, "RUNNING")

    def log_epoch(self, run_id: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """Record one epoch's metrics at step `epoch`, in one batch."""
        self.ledger.log_metrics(run_id, {**metrics, "epoch": epoch}, step=epoch)

    def logged_epochs(self, record: Record | None) -> set[int]:
        """The epochs recorded so far; none for a run that is not there yet."""
        if record is None:
            return set()
        history = self.ledger.client.get_metric_history(record.run_id, "epoch")
        return {metric.step for metric in history if metric.step > 0}

    def end_trial(self, run_id: str, status: RunStatus, reason: str = "") -> None:
        """Close a trial's run; `reason` is kept in a tag and shown as the run's description."""
        if reason:
            self.ledger.client.set_tag(run_id, "mlflow.note.content", reason)
        self.ledger.client.set_terminated(run_id, status)

    def log_documents(self, documents: Mapping[str, str]) -> None:
        """Keep texts (file name to content) as the parent run's artifacts."""
        with tempfile.TemporaryDirectory() as directory:
            for name, text in documents.items():
                path = Path(directory) / name
                path.write_text(text, encoding="utf-8")
                self.ledger.log_artifact(self.parent_id, path)

    def close(self, status: RunStatus) -> None:
        """End the study's run. No trial of it stays RUNNING."""
        self._stop_heartbeat.set()
        self._heartbeat.join()
        self._close_left_behind("the study was stopped; run it again to go on")
        self.ledger.client.set_terminated(self.parent_id, status)

    def _close_left_behind(self, reason: str) -> None:
        for status in ("RUNNING", "SCHEDULED"):
            query = f"tags.`{TAG}kind` = 'trial' and attributes.status = '{status}'"
            for run in self.ledger.search([self.experiment_id], query):
                self.end_trial(run.info.run_id, "KILLED", reason)

    def _keep_beating(self) -> None:
        while not self._stop_heartbeat.wait(HEARTBEAT_SECONDS):
            try:
                self._beat()
            except MlflowException:
                continue  # the store may be away for a moment; the next beat tries again

    def _beat(self) -> None:
        tags = {
            f"{TAG}owner": str(Owner.this_process()),
            f"{TAG}heartbeat": f"{time.time():.0f}",
        }
        self.ledger.set_tags(self.parent_id, tags)


def _open_experiment(ledger: Ledger, plan: Plan) -> str:
    """The id of the study's experiment, made where there is none."""
    client, name = ledger.client, plan.study.study
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        location = None
        if ledger.artifacts is not None:
            location = (ledger.artifacts / re.sub(r"[^\w.-]+", "-", name)).as_uri()
        experiment_id = client.create_experiment(name, artifact_location=location)
    elif experiment.lifecycle_stage != "active":
        raise LedgerError(
            f"the study {name!r} was deleted in MLflow; restore or purge it there, "
            "or give the study another name"
        )
    else:
        experiment_id = experiment.experiment_id
    # With its kind unsaid, MLflow shows an experiment as one about language models.
    client.set_experiment_tag(experiment_id, "mlflow.experimentKind", "custom_model_development")
    client.set_experiment_tag(experiment_id, "mlflow.note.content", plan.study.description)
    return str(experiment_id)


def _refuse_if_at_work(parent: Run, name: str) -> None:
    if parent.info.status != "RUNNING":
        return
    tags = parent.data.tags
    owner = Owner.parse(tags.get(f"{TAG}owner", ""))
    age = time.time() - float(tags.get(f"{TAG}heartbeat", "0"))
    if owner is not None and owner.may_be_alive(age):
        raise LedgerError(
            f"the study {name!r} is being run by {owner.described} (last sign of life "
            f"{age:.0f} s ago); wait for it, stop it, or use another --storage"
        )


def _flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flattened(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
