"""The ledger of studies and trials: MLflow, and nothing beside it.

An MLflow experiment is a study. It has one parent run, the study itself, and one child run for each
trial, found again by the trial's identity. One process, the command's own, writes all of it.
"""

import math
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import mlflow
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from orchestrator.cells import Cell
from orchestrator.ownership import HEARTBEAT_SECONDS, Owner
from orchestrator.study import Plan

RunStatus = Literal["SCHEDULED", "RUNNING", "FINISHED", "FAILED", "KILLED"]
Standing = Literal["finished", "stale", "to resume", "failed", "missing"]

_TAG = "orchestrator."
_PARAMS_IN_A_BATCH = 100
_METRICS_IN_A_BATCH = 1000


class LedgerError(RuntimeError):
    """The ledger cannot be used as asked; the message says why and what would work."""


def tracking_uri(storage: Path) -> str:
    """`MLFLOW_TRACKING_URI`, or a SQLite file in the storage."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{storage / 'mlflow.db'}"


@dataclass(frozen=True)
class Record:
    """One trial's run as the ledger holds it. epoch: the last one recorded, 0 before the first."""

    run_id: str
    study: str
    identity: str
    status: RunStatus
    code: str
    epoch: int
    metrics: dict[str, float]


def standing(record: Record | None, code: str) -> Standing:
    """What is to be done about a trial, by its run in the ledger. code: the present version."""
    if record is None:
        return "missing"
    if record.status == "FINISHED":
        return "finished" if record.code == code else "stale"
    return "failed" if record.status == "FAILED" else "to resume"


class Ledger:
    """A study in MLflow, from `open` to `close`."""

    def __init__(self, tracking_uri: str, artifacts: Path | None) -> None:
        """Connect to a tracking store. `artifacts`: where a new study keeps them; None leaves that
        to the tracking server. Raises LedgerError where the store cannot be reached."""
        self.tracking_uri = tracking_uri
        self._artifacts = artifacts
        mlflow.set_tracking_uri(tracking_uri)
        try:
            self._client = MlflowClient(tracking_uri)
            self._client.search_experiments(max_results=1)
        except Exception as error:
            raise LedgerError(f"MLflow at {tracking_uri} cannot be used: {error}") from None
        self.experiment_id = ""
        self.parent_id = ""
        self._stop_heartbeat = threading.Event()
        self._heartbeat: threading.Thread | None = None

    def find(self, cells: Iterable[Cell]) -> dict[str, Record]:
        """The run to go by for each cell the ledger knows, by identity, over all studies.

        A finished run of the cell's code version comes first, then a finished one of another, then
        the latest that was left unfinished in this study.
        """
        codes = {cell.identity: cell.code for cell in cells}
        found: dict[str, Record] = {}
        experiments = [entry.experiment_id for entry in self._client.search_experiments()]
        names = {e.experiment_id: e.name for e in self._client.search_experiments()}
        runs = self._search(experiments, f"tags.`{_TAG}kind` = 'trial'")
        for run in sorted(runs, key=lambda run: run.info.start_time):
            record = _record(run, names[run.info.experiment_id])
            if record.identity not in codes:
                continue
            unfinished_elsewhere = (
                record.status != "FINISHED" and run.info.experiment_id != self.experiment_id
            )
            if unfinished_elsewhere:
                continue
            known = found.get(record.identity)
            code = codes[record.identity]
            if known is None or _rank(record, code) >= _rank(known, code):
                found[record.identity] = record
        return found

    def open_study(self, plan: Plan) -> None:
        """Find or make the study's parent run, and say that it is running.

        Closes what an earlier process left RUNNING when it died. Raises LedgerError where another
        process is at work on the study right now.
        """
        name = plan.study.study
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            location = None
            if self._artifacts is not None:
                location = (self._artifacts / re.sub(r"[^\w.-]+", "-", name)).as_uri()
            self.experiment_id = self._client.create_experiment(name, artifact_location=location)
        else:
            if experiment.lifecycle_stage != "active":
                raise LedgerError(
                    f"the study {name!r} was deleted in MLflow; restore or purge it there, "
                    "or give the study another name"
                )
            self.experiment_id = experiment.experiment_id
        # With its kind unsaid, MLflow shows an experiment as one about language models.
        for key, value in (
            ("mlflow.experimentKind", "custom_model_development"),
            ("mlflow.note.content", plan.study.description),
        ):
            self._client.set_experiment_tag(self.experiment_id, key, value)
        parents = self._search([self.experiment_id], f"tags.`{_TAG}kind` = 'study'")
        if parents:
            parent = max(parents, key=lambda run: run.info.start_time)
            self._refuse_if_at_work(parent, name)
            self.parent_id = parent.info.run_id
            self._client.update_run(self.parent_id, "RUNNING")
        else:
            tags = {f"{_TAG}kind": "study", "mlflow.note.content": plan.study.description}
            run = self._client.create_run(self.experiment_id, tags=tags, run_name=name)
            self.parent_id = run.info.run_id
        self._beat()
        self._close_left_behind("an earlier process ended without closing it")
        self._client.log_text(self.parent_id, plan.text, "study.yaml")
        self._heartbeat = threading.Thread(target=self._keep_beating, daemon=True)
        self._heartbeat.start()

    def begin_trial(self, cell: Cell, commit: str | None, record: Record | None) -> str:
        """Make the trial's run, or reopen the unfinished one of `record`, as scheduled. Returns the
        run's id."""
        trial = cell.trial
        tags = {
            f"{_TAG}kind": "trial",
            f"{_TAG}identity": cell.identity,
            f"{_TAG}code": cell.code,
            f"{_TAG}data": cell.dataset.manifest.fingerprint,
            f"{_TAG}variant": trial.variant,
            f"{_TAG}seed": str(trial.experiment.seed),
            **{f"{_TAG}axis.{axis}": str(value) for axis, value in trial.axes.items()},
            "mlflow.parentRunId": self.parent_id,
            "mlflow.note.content": "",
        }
        if commit:
            tags["mlflow.source.git.commit"] = commit
        if record is not None:
            run_id = record.run_id
        else:
            run_id = self._client.create_run(self.experiment_id, run_name=trial.name).info.run_id
            params = [
                Param(name, str(value))
                for name, value in _flattened(asdict(trial.experiment)).items()
            ]
            for start in range(0, len(params), _PARAMS_IN_A_BATCH):
                self._client.log_batch(run_id, params=params[start : start + _PARAMS_IN_A_BATCH])
            self._client.log_metric(run_id, "model/parameters_m", cell.cost.parameters_m, step=0)
            self._client.log_metric(run_id, "model/gflops", cell.cost.gflops, step=0)
        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        self._client.update_run(run_id, "SCHEDULED")
        return str(run_id)

    def start_trial(self, run_id: str, code: str) -> None:
        """The trial's processes are being started, with the sources as they are now (`code`)."""
        self._client.set_tag(run_id, f"{_TAG}code", code)
        self._client.update_run(run_id, "RUNNING")

    def log_epoch(self, run_id: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """Record one epoch's metrics at step `epoch`, in one batch. Values that are not finite are
        left out, because not every store holds them."""
        now = int(time.time() * 1000)
        batch = [
            Metric(_metric_name(name), value, now, epoch)
            for name, value in {**metrics, "epoch": epoch}.items()
            if math.isfinite(value)
        ]
        for start in range(0, len(batch), _METRICS_IN_A_BATCH):
            self._client.log_batch(run_id, metrics=batch[start : start + _METRICS_IN_A_BATCH])

    def logged_epochs(self, record: Record | None) -> set[int]:
        """The epochs recorded so far; none for a run that is not there yet."""
        if record is None:
            return set()
        history = self._client.get_metric_history(record.run_id, "epoch")
        return {metric.step for metric in history if metric.step > 0}

    def log_artifact(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Copy a file, or a directory's content, into the run's artifacts."""
        if path.is_dir():
            self._client.log_artifacts(run_id, str(path), folder)
        else:
            self._client.log_artifact(run_id, str(path), folder)

    def end_trial(self, run_id: str, status: RunStatus, reason: str = "") -> None:
        """Close a trial's run; `reason` is kept in a tag and shown as the run's description."""
        if reason:
            self._client.set_tag(run_id, "mlflow.note.content", reason)
        self._client.set_terminated(run_id, status)

    def record(self, run_id: str) -> Record:
        """A trial's run as it stands now."""
        run = self._client.get_run(run_id)
        return _record(run, self._client.get_experiment(run.info.experiment_id).name)

    def download(self, uri: str, directory: Path) -> Path:
        """Copy `runs:/ID/FOLDER` or a registered `models:/NAME@ALIAS` into `directory`; returns the
        folder it is in. Raises LedgerError where there is none."""
        # MLflow's own bar writes over what the commands print.
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        try:
            found = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(directory))
        except Exception as error:
            raise LedgerError(f"{uri}: not in MLflow at {self.tracking_uri} ({error})") from None
        return Path(found)

    def log_evaluation(
        self,
        run_id: str,
        name: str,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        files: Path,
    ) -> None:
        """Record a later evaluation of a finished run: metrics and files under `eval/NAME/`, tags
        under `orchestrator.eval.NAME.`. Nothing that has another name is touched."""
        now = int(time.time() * 1000)
        entries = [
            Metric(_metric_name(f"eval/{name}/{metric}"), value, now, 0)
            for metric, value in metrics.items()
        ]
        labels = [RunTag(f"{_TAG}eval.{name}.{key}", value) for key, value in tags.items()]
        self._client.log_batch(run_id, tags=labels)
        for start in range(0, len(entries), _METRICS_IN_A_BATCH):
            self._client.log_batch(run_id, metrics=entries[start : start + _METRICS_IN_A_BATCH])
        self._client.log_artifacts(run_id, str(files), f"eval/{name}")

    def how_to_look(self) -> str:
        """How a person opens what this ledger holds."""
        if self.tracking_uri.startswith("http"):
            return f"results: {self.tracking_uri}/#/experiments/{self.experiment_id}"
        return (
            f"look at the results:  {sys.executable} -m mlflow ui "
            f"--backend-store-uri {self.tracking_uri}\n"
            f"and open              http://127.0.0.1:5000/#/experiments/{self.experiment_id}"
        )

    def close_study(self, status: RunStatus, documents: Mapping[str, str]) -> None:
        """End the study's run with `documents` (file name to text) as artifacts. No trial of it
        stays RUNNING."""
        self._stop_heartbeat.set()
        if self._heartbeat is not None:
            self._heartbeat.join()
        if not self.parent_id:
            return
        self._close_left_behind("the study was stopped; run it again to go on")
        with tempfile.TemporaryDirectory() as directory:
            for name, text in documents.items():
                path = Path(directory) / name
                path.write_text(text, encoding="utf-8")
                self._client.log_artifact(self.parent_id, str(path))
        self._client.set_terminated(self.parent_id, status)

    def _search(self, experiments: list[str], query: str) -> list[Run]:
        runs: list[Run] = []
        token = None
        while True:
            page = self._client.search_runs(experiments, query, max_results=1000, page_token=token)
            runs += page
            token = page.token
            if not token:
                return runs

    def _close_left_behind(self, reason: str) -> None:
        for status in ("RUNNING", "SCHEDULED"):
            query = f"tags.`{_TAG}kind` = 'trial' and attributes.status = '{status}'"
            for run in self._search([self.experiment_id], query):
                self.end_trial(run.info.run_id, "KILLED", reason)

    def _keep_beating(self) -> None:
        while not self._stop_heartbeat.wait(HEARTBEAT_SECONDS):
            try:
                self._beat()
            except MlflowException:
                continue  # the store may be away for a moment; the next beat tries again

    def _beat(self) -> None:
        tags = [
            RunTag(f"{_TAG}owner", str(Owner.this_process())),
            RunTag(f"{_TAG}heartbeat", f"{time.time():.0f}"),
        ]
        self._client.log_batch(self.parent_id, tags=tags)

    def _refuse_if_at_work(self, parent: Run, name: str) -> None:
        if parent.info.status != "RUNNING":
            return
        tags = parent.data.tags
        owner = Owner.parse(tags.get(f"{_TAG}owner", ""))
        age = time.time() - float(tags.get(f"{_TAG}heartbeat", "0"))
        if owner is not None and owner.may_be_alive(age):
            raise LedgerError(
                f"the study {name!r} is being run by {owner.described} (last sign of life "
                f"{age:.0f} s ago); wait for it, stop it, or use another --storage"
            )


def _record(run: Run, study: str) -> Record:
    tags, metrics = run.data.tags, run.data.metrics
    return Record(
        run_id=run.info.run_id,
        study=study,
        identity=tags.get(f"{_TAG}identity", ""),
        status=run.info.status,
        code=tags.get(f"{_TAG}code", ""),
        epoch=int(metrics.get("epoch", 0)),
        metrics=dict(metrics),
    )


def _rank(record: Record, code: str) -> int:
    if record.status == "FINISHED":
        return 2 if record.code == code else 1
    return 0


def _metric_name(name: str) -> str:
    """MLflow accepts letters, digits and _-./ : only; anything else becomes a hyphen."""
    return re.sub(r"[^\w./-]+", "-", name)


def _flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flattened(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
