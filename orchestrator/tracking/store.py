"""The tracking store: connecting to it, searching it, and writing to single runs of it."""

import math
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import mlflow
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking import MlflowClient

from orchestrator.storage import Storage
from orchestrator.tracking import tags as tag
from orchestrator.tracking.mlflow_view import VIEW_QUERY
from orchestrator.tracking.runs import TrialRun, evaluations_in, read_trial_run
from pipelines.errors import UserError

_VARIABLE = "MLFLOW_TRACKING_URI"
_PARAMS_IN_A_BATCH = 100
_METRICS_IN_A_BATCH = 1000
_ABSENT = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)


class TrackingError(UserError, RuntimeError):
    """The ledger cannot be used as asked; the message says why and what would work."""


def tracking_uri(storage: Path) -> str:
    """`MLFLOW_TRACKING_URI`, or a SQLite file in the storage."""
    return os.environ.get(_VARIABLE) or f"sqlite:///{storage / 'mlflow.db'}"


def open_store(storage: Storage) -> "TrackingStore":
    """The store of `MLFLOW_TRACKING_URI`, or a SQLite file in the storage on this machine.

    Raises TrackingError where the storage is a URI and there is no tracking server.
    """
    uri = tracking_uri(storage.here)
    if storage.is_remote and uri.startswith("sqlite:"):
        raise TrackingError(
            f"--storage {storage.shared} can hold no ledger; set MLFLOW_TRACKING_URI to a "
            "tracking server's address"
        )
    return TrackingStore(uri, None if uri.startswith("http") else storage.here / "artifacts")


class TrackingStore:
    """A tracking store. client: MLflow's own, for this package alone."""

    def __init__(self, tracking_uri: str, artifacts: Path | None) -> None:
        """Connect to a tracking store. `artifacts`: where a new study keeps them; None leaves that
        to the tracking server. Raises TrackingError where the store cannot be reached."""
        self.tracking_uri = tracking_uri
        self.artifacts = artifacts
        try:
            self.client = MlflowClient(tracking_uri)
            self.client.search_experiments(max_results=1)
        except Exception as error:
            raise TrackingError(f"MLflow at {self.shown_uri} cannot be used: {error}") from None
        said = os.environ.get(_VARIABLE)
        mlflow.set_tracking_uri(tracking_uri)  # what registers models asks for no address
        if said is None:  # MLflow notes it in the environment, which holds the user's word alone
            os.environ.pop(_VARIABLE, None)

    def studies(self) -> dict[str, str]:
        """Names of the experiments that are not deleted, by id."""
        names: dict[str, str] = {}
        token = None
        while True:
            page = self.client.search_experiments(page_token=token)
            names |= {entry.experiment_id: entry.name for entry in page}
            token = page.token
            if not token:
                return names

    def make_experiment(self, name: str, location: str | None) -> None:
        """Make an experiment, unless another process was quicker. location: of its artifacts."""
        try:
            self.client.create_experiment(name, artifact_location=location)
        except MlflowException as error:
            if self.client.get_experiment_by_name(name) is None:
                raise TrackingError(
                    f"the study {name!r} cannot be made in MLflow: {error}"
                ) from None

    def exists(self, run_id: str) -> bool:
        """Whether a run is there and not deleted. A store that does not answer has not said that
        it is gone."""
        try:
            return bool(self.client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            return bool(error.error_code != _ABSENT)

    def trial_run(self, run_id: str) -> TrialRun:
        """A trial's run as it is now."""
        run = self.client.get_run(run_id)
        return read_trial_run(run, self.client.get_experiment(run.info.experiment_id).name)

    def run_name(self, run_id: str) -> str:
        """The name that MLflow shows for a run."""
        return str(self.client.get_run(run_id).info.run_name)

    def search(self, experiments: Sequence[str], query: str) -> list[Run]:
        """All runs of the experiments (by their ids) that match, however many there are."""
        runs: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs(
                list(experiments), query, max_results=1000, page_token=token
            )
            runs += page
            token = page.token
            if not token:
                return runs

    def log(
        self,
        run_id: str,
        params: Mapping[str, object],
        metrics: Mapping[str, float],
    ) -> None:
        """Record a new run's settings and first figures in as few requests as there can be."""
        entries = [Param(name, str(value)) for name, value in params.items()]
        now = int(time.time() * 1000)
        self.client.log_batch(
            run_id,
            params=entries[:_PARAMS_IN_A_BATCH],
            metrics=[Metric(_metric_name(name), value, now, 0) for name, value in metrics.items()],
        )
        for start in range(_PARAMS_IN_A_BATCH, len(entries), _PARAMS_IN_A_BATCH):
            self.client.log_batch(run_id, params=entries[start : start + _PARAMS_IN_A_BATCH])

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int) -> None:
        """Record figures at one step, in batches. Values that are not finite are left out, because
        not every store holds them."""
        now = int(time.time() * 1000)
        entries = [
            Metric(_metric_name(name), value, now, step)
            for name, value in metrics.items()
            if math.isfinite(value)
        ]
        for start in range(0, len(entries), _METRICS_IN_A_BATCH):
            self.client.log_batch(run_id, metrics=entries[start : start + _METRICS_IN_A_BATCH])

    def holds(self, run_id: str, metrics: Mapping[str, float]) -> bool:
        """Whether the latest figures of a run are these."""
        latest = self.client.get_run(run_id).data.metrics
        return all(
            latest.get(_metric_name(name)) == value
            for name, value in metrics.items()
            if math.isfinite(value)
        )

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags, in one batch."""
        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def log_artifact(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Copy a file, or a directory's content, into the run's artifacts."""
        if path.is_dir():
            self.client.log_artifacts(run_id, str(path), folder)
        else:
            self.client.log_artifact(run_id, str(path), folder)

    def download(self, uri: str, directory: Path) -> Path:
        """Copy `runs:/ID/FOLDER` or a registered `models:/NAME@ALIAS` into `directory`; returns the
        folder it is in. Raises TrackingError where there is none.

        The last checkpoint of a run is its model, so `runs:/ID/last` is what `runs:/ID/model` is.
        """
        # MLflow's own bar writes over what the commands print.
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        last = re.fullmatch(r"(runs:/[^/]+)/last/?", uri)
        # Runs of earlier versions hold it in a folder of that name.
        sources = [uri] if last is None else [f"{last[1]}/model", uri]
        for source in sources:
            try:
                found = mlflow.artifacts.download_artifacts(source, dst_path=str(directory))
                return Path(found)
            except Exception as error:
                cause = error
        raise TrackingError(f"{uri}: not in MLflow at {self.shown_uri} ({cause})")

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
        vouching = {f"{tag.EVALUATION}{name}.{key}": value for key, value in tags.items()}
        # Tags say whose figures and files these are: void while they are written, true after.
        self.set_tags(run_id, dict.fromkeys(vouching, ""))
        named = {f"eval/{name}/{metric}": value for metric, value in metrics.items()}
        self.log_metrics(run_id, named, self._scorings(run_id, named))
        self.client.log_artifacts(run_id, str(files), f"eval/{name}")
        self.set_tags(run_id, vouching)

    def _scorings(self, run_id: str, named: Iterable[str]) -> int:
        """How often figures of these names were recorded. Of those at one step, MLflow shows the
        one with the latest time, and the clocks of two machines differ."""
        names = [_metric_name(name) for name in named][:1]
        known = [m.step for name in names for m in self.client.get_metric_history(run_id, name)]
        return max(known, default=-1) + 1

    def evaluations(self, run_id: str) -> dict[str, dict[str, str]]:
        """The tags of each later evaluation of a run, by its name."""
        return evaluations_in(self.client.get_run(run_id).data.tags)

    @property
    def shown_uri(self) -> str:
        """The tracking URI as it may be shown and kept: without a password."""
        return re.sub(r"(://[^:/?#@]*):[^/?#]*@", r"\1@", self.tracking_uri)

    def how_to_look(self, experiment_id: str) -> str:
        """How a person opens what this ledger holds of an experiment."""
        page = f"#/experiments/{experiment_id}/runs{VIEW_QUERY}"
        if self.tracking_uri.startswith("http"):
            return f"results: {self.shown_uri}/{page}"
        return (
            f"look at the results:  {sys.executable} -m mlflow ui "
            f"--backend-store-uri {self.shown_uri}\n"
            f"and open              http://127.0.0.1:5000/{page}"
        )


def _metric_name(name: str) -> str:
    """MLflow accepts letters, digits and _-./ : only; anything else becomes a hyphen."""
    return re.sub(r"[^\w./-]+", "-", name)
