"""The tracking store: connect to it, search it, and write to its runs."""

import logging
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

from orchestrator.tracking import relocation
from orchestrator.tracking import tags as tag
from orchestrator.tracking.connection import database_file, open_client, short_cause
from orchestrator.tracking.datasets import DatasetKey, dataset_input
from orchestrator.tracking.liveness import Liveness
from orchestrator.tracking.mlflow_view import report_path, runs_path
from orchestrator.tracking.runs import (
    RunStatus,
    TrialRun,
    evaluations_in,
    read_trial_run,
    shown_end,
    timestamp,
)
from orchestrator.tracking.user_uri import global_uri
from pipelines.data.manifest import metric_name
from pipelines.errors import UserError, is_disk_full

if TYPE_CHECKING:
    from pipelines.data.dataset import PreparedDataset

_PARAMS_PER_BATCH = 100
_METRICS_PER_BATCH = 1000
# Logs the traceback of each failed statement.
_SQL_LOGGER = logging.getLogger("mlflow.store.db.utils")
# Packages of the libraries with which MLflow writes artifacts to object stores.
_ARTIFACT_LIBRARIES = ("boto3.", "botocore.", "google.api_core.", "google.cloud.", "azure.")
_NOT_FOUND = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)


class TrackingError(UserError, RuntimeError):
    """A request to the tracking store failed; the message says why and what to do."""


def is_store_error(error: BaseException) -> bool:
    """Whether a request to the tracking store, or to the store of its artifacts, failed, and
    nothing else."""
    module = f"{type(error).__module__}."
    return isinstance(error, MlflowException) or module.startswith(_ARTIFACT_LIBRARIES)


def now_ms() -> int:
    """Return the time in milliseconds since 1970, as the store keeps it of metrics."""
    return int(time.time() * 1000)


def without_password(uri: str) -> str:
    """Return a tracking URI that is safe to print and store."""
    return re.sub(r"(://[^:/?#@]*):[^/?#]*@", r"\1@", uri)


class TrackingStore:
    """A tracking store. client: MLflow's client, for use inside this package only.

    replica: where it was restored from, if it is a copy that is only to be read.
    """

    def __init__(
        self,
        tracking_uri: str,
        artifacts: Path | None,
        replica: str | None = None,
        locks: Path | None = None,
    ) -> None:
        """Connect to a tracking store. artifacts: the folder for artifacts of new studies; None
        leaves that to the tracking server. locks: the folder for locks of the processes that run
        studies; by default, next to the database file. Raises TrackingError if the store cannot be
        reached."""
        self.replica = replica
        self.tracking_uri = tracking_uri
        self.artifacts = artifacts
        self._artifact_uris: dict[str, str] = {}  # of the runs that `search` has returned
        file = database_file(tracking_uri)
        self.locks = locks or (file.parent / "locks" if file else None)
        self.liveness = Liveness(self.locks)
        try:
            self.client = open_client(tracking_uri)
        except Exception as error:
            raise TrackingError(f"MLflow at {self.display_uri} cannot be used: {error}") from None
        if file is not None:
            relocation.follow_moved_storage()

    def experiment_names(self) -> dict[str, str]:
        """Return the names of all experiments that are not deleted, by id."""
        names: dict[str, str] = {}
        token = None
        while True:
            page = self.client.search_experiments(page_token=token)
            names |= {entry.experiment_id: entry.name for entry in page}
            token = page.token
            if not token:
                return names

    def make_experiment(self, name: str, location: str | None) -> None:
        """Create an experiment, unless another process was faster. location: of its artifacts."""
        try:
            self.client.create_experiment(
                name, artifact_location=location, tags={tag.KIND: "study"}
            )
        except MlflowException as error:
            if self.client.get_experiment_by_name(name) is None:
                raise TrackingError(
                    f"study {name!r} could not be created in MLflow: {error}"
                ) from None

    def exists(self, run_id: str) -> bool:
        """Whether a run exists and is not deleted; True if the store does not answer."""
        try:
            return bool(self.client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            return bool(error.error_code != _NOT_FOUND)

    def trial_run(self, run_id: str) -> TrialRun:
        """Read the current state of a trial's run."""
        run = self.client.get_run(run_id)
        return read_trial_run(run, self.client.get_experiment(run.info.experiment_id).name)

    def run_name(self, run_id: str) -> str:
        """Return the name that MLflow shows for a run."""
        return str(self.client.get_run(run_id).info.run_name)

    def search(self, experiments: Sequence[str], query: str) -> list[Run]:
        """Return all matching runs of the experiments (ids), across all result pages."""
        runs: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs(
                list(experiments), query, max_results=1000, page_token=token
            )
            runs += page
            token = page.token
            if not token:
                self._artifact_uris |= {run.info.run_id: run.info.artifact_uri for run in runs}
                return runs

    def log(
        self,
        run_id: str,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
    ) -> None:
        """Record a new run's settings and first metrics in as few requests as possible."""
        entries = [Param(name, str(value)) for name, value in params.items()]
        now = now_ms()
        self.client.log_batch(
            run_id,
            params=entries[:_PARAMS_PER_BATCH],
            metrics=[Metric(metric_name(name), value, now, 0) for name, value in metrics.items()],
        )
        for start in range(_PARAMS_PER_BATCH, len(entries), _PARAMS_PER_BATCH):
            self.client.log_batch(run_id, params=entries[start : start + _PARAMS_PER_BATCH])

    def log_metrics(
        self,
        run_id: str,
        metrics: Mapping[str, float],
        step: int,
        model_id: str | None = None,
        dataset: DatasetKey | None = None,
        time_ms: int | None = None,
    ) -> None:
        """Record metrics at one step, in batches; with `model_id`, also as that model's. dataset:
        the one on which they were measured. time_ms: see `now_ms`; by default now. Skips values
        that are not finite, which some stores cannot hold."""
        name, digest = (dataset.name, dataset.digest) if dataset else (None, None)
        time_ms = now_ms() if time_ms is None else time_ms
        entries = [
            Metric(metric_name(key), value, time_ms, step, model_id, name, digest)
            for key, value in metrics.items()
            if math.isfinite(value)
        ]
        self.log_metric_entries(run_id, entries)

    def log_metric_entries(self, run_id: str, entries: Sequence[Metric]) -> None:
        """Record MLflow's metrics, in batches."""
        for start in range(0, len(entries), _METRICS_PER_BATCH):
            self.client.log_batch(run_id, metrics=entries[start : start + _METRICS_PER_BATCH])

    def latest_metrics_are(self, run_id: str, metrics: Mapping[str, float]) -> bool:
        """Whether the latest values of these metrics of a run are the given ones."""
        latest = self.client.get_run(run_id).data.metrics
        return all(
            latest.get(metric_name(name)) == value
            for name, value in metrics.items()
            if math.isfinite(value)
        )

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags, in one batch. An empty value deletes the tag."""
        entries = [RunTag(key, value) for key, value in tags.items() if value]
        if entries:
            self.client.log_batch(run_id, tags=entries)
        if len(entries) == len(tags):
            return
        existing = self.client.get_run(run_id).data.tags
        for key in (key for key, value in tags.items() if not value and key in existing):
            self._delete_tag(run_id, key)

    def _delete_tag(self, run_id: str, key: str) -> None:
        try:
            self.client.delete_tag(run_id, key)
        except MlflowException as error:  # another process may have deleted it
            if error.error_code != _NOT_FOUND:
                raise

    def end_run(self, run: Run, status: RunStatus, tags: Mapping[str, str]) -> None:
        """Set tags and close a run; MLflow shows the training time of a trial as its duration."""
        now, end = datetime.now(UTC), None
        if run.data.tags.get(tag.KIND) == "trial":
            end = shown_end(run, now)
            tags = {**tags, tag.CLAIM: "", tag.ENDED: timestamp(now)}
        self.set_tags(run.info.run_id, tags)
        self.client.set_terminated(run.info.run_id, status, end)

    def log_dataset(
        self, run_id: str, dataset: "PreparedDataset", splits: Iterable[str | None]
    ) -> None:
        """Record a data set as an input of a run. splits: see `dataset_input`."""
        self.client.log_inputs(run_id, [dataset_input(dataset, splits)])

    def log_artifact(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Copy a file, or the contents of a directory, into the run's artifacts."""
        if path.is_dir():
            self.client.log_artifacts(run_id, str(path), folder)
        else:
            self.client.log_artifact(run_id, str(path), folder)

    def download(self, uri: str, directory: Path) -> Path:
        """Copy `runs:/ID/FOLDER` or a registered `models:/NAME@ALIAS` into `directory`; return its
        path there. Raises TrackingError if it does not exist.

        A run's model is its last checkpoint, so `runs:/ID/last` means `runs:/ID/model`.
        """
        # MLflow's progress bar would overwrite the commands' output.
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        source = re.sub(r"^(runs:/[^/]+)/last/?$", r"\1/model", uri)
        try:
            with global_uri(self.tracking_uri):  # MLflow resolves `models:/` only there
                path = mlflow.artifacts.download_artifacts(source, dst_path=str(directory))
        except Exception as error:
            advice = self._registered_models() if uri.startswith("models:") else ""
            message = f"{uri}: not in MLflow at {self.display_uri} ({error}){advice}"
            raise TrackingError(message) from error
        return Path(path)

    def _registered_models(self) -> str:
        """Return the names of the first registered models, for a message."""
        try:
            models = self.client.search_registered_models(max_results=10)
        except Exception:  # the store has just failed with another message
            return ""
        return f"; registered: {', '.join(model.name for model in models) or 'none'}"

    def download_file(self, run_id: str, path: str, directory: Path) -> Path:
        """Copy an artifact of a run that belongs to none of its models into `directory`; return its
        path there. Raises TrackingError if it does not exist.

        Asks the store for nothing if `search` has returned the run: a report reads a file of each.
        """
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        try:
            if run_id not in self._artifact_uris:
                self._artifact_uris[run_id] = self.client.get_run(run_id).info.artifact_uri
            file = mlflow.artifacts.download_artifacts(
                f"{self._artifact_uris[run_id].rstrip('/')}/{path}",
                dst_path=str(directory),
                tracking_uri=self.tracking_uri,
            )
        except Exception as error:
            raise TrackingError(
                f"runs:/{run_id}/{path}: not in MLflow at {self.display_uri} "
                f"({short_cause(error)}); restore the file"
            ) from None
        return Path(file)

    @contextmanager
    def readable_write_errors(self) -> Iterator[None]:
        """Within this context, raise TrackingError if the store or its artifacts cannot be
        written."""
        was_disabled, _SQL_LOGGER.disabled = _SQL_LOGGER.disabled, True
        try:
            yield
        except Exception as error:
            if is_disk_full(error) or not (is_store_error(error) or isinstance(error, OSError)):
                raise
            cause = short_cause(error)
            if isinstance(error, OSError) and error.filename and error.strerror:
                cause = f"{error.filename2 or error.filename}: {error.strerror}"
            raise TrackingError(
                f"MLflow at {self.display_uri} cannot be written ({cause}); check that you may "
                "write to it, then run the same command again"
            ) from None
        finally:
            _SQL_LOGGER.disabled = was_disabled

    def model_id(self, run_id: str) -> str | None:
        """Return the id of a run's model; None if it has none."""
        outputs = self.client.get_run(run_id).outputs
        models = outputs.model_outputs if outputs else []
        return str(models[-1].model_id) if models else None

    def evaluations(self, run_id: str) -> dict[str, dict[str, str]]:
        """Return the tags of each later evaluation of a run, by its name."""
        return evaluations_in(self.client.get_run(run_id).data.tags)

    @property
    def display_uri(self) -> str:
        """The tracking URI without its password, safe to print and store."""
        if self.replica:
            return self.replica
        return without_password(self.tracking_uri)

    def page_address(self, experiment_id: str, parent_id: str) -> str:
        """Return the address of a study's table on the tracking server; empty without a server."""
        if not self.tracking_uri.startswith("http"):
            return ""
        return f"{self.display_uri}/{report_path(experiment_id, parent_id)}"

    def viewing_instructions(self, experiment_id: str, parent_id: str) -> str:
        """Return instructions for opening a study's pages in MLflow. parent_id: of its run,
        which has the report."""
        table, trials = report_path(experiment_id, parent_id), runs_path(experiment_id)
        if self.replica:
            return f"read from {self.replica}; MLflow shows it at /{table} while its server runs"
        if self.tracking_uri.startswith("http"):
            return (
                f"table in MLflow:  {self.display_uri}/{table}\n"
                f"trials in MLflow: {self.display_uri}/{trials}"
            )
        server = "http://127.0.0.1:5000"
        return (
            f"to see the results, run:  {sys.executable} -m mlflow ui "
            f"--backend-store-uri {shlex.quote(self.display_uri)}\n"
            f"and open the table:       {server}/{table}\n"
            f"or the trials:            {server}/{trials}"
        )
