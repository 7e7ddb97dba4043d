"""Reading what studies have left in the tracking store, without changing any of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from orchestrator.ledger.figures import FIGURES
from orchestrator.ledger.records import STOPPED, TAG, RunStatus
from orchestrator.ledger.store import Ledger

_PORT = 5000
_AXIS = f"{TAG}axis."


@dataclass(frozen=True)
class TrialRun:
    """A trial's run, with all that was recorded of it once.

    variant, seed, axes: of the cell it was trained for. dataset: as the study named it; data: its
    fingerprint. digests: of the weights that the backbone and the whole network started from, None
    without any. reason: why it failed or was stopped, empty where nothing was said. stopped_early:
    by the early stopping of a search. started and ended: seconds since the epoch.
    """

    run_id: str
    experiment_id: str
    study: str
    identity: str
    status: RunStatus
    variant: str
    seed: int
    axes: Mapping[str, str]
    code: str
    dataset: str
    data: str
    precision: str
    digests: tuple[str | None, str | None]
    reason: str
    stopped_early: bool
    started: float
    ended: float | None
    metrics: Mapping[str, float]

    @property
    def hours(self) -> float | None:
        """Wall hours of training, summed over resumes where that was recorded; else from the start
        of the run to its end."""
        seconds = self.metrics.get("trial/seconds")
        if seconds is None and self.ended is not None:
            seconds = self.ended - self.started
        return None if seconds is None else seconds / 3600


def trial_runs(ledger: Ledger) -> list[TrialRun]:
    """All trials of all studies."""
    names = {entry.experiment_id: entry.name for entry in ledger.client.search_experiments()}
    found = ledger.search(list(names), f"tags.`{TAG}kind` = 'trial'")
    return [_trial_run(run, names[run.info.experiment_id]) for run in found]


def history(ledger: Ledger, run_id: str, metric: str) -> list[tuple[int, float]]:
    """`(epoch, value)` of a metric, first epoch first; empty where there is none."""
    try:
        recorded = ledger.client.get_metric_history(run_id, metric)
    except MlflowException:
        return []
    return sorted({entry.step: entry.value for entry in recorded}.items())


def parent_run(ledger: Ledger, study: str) -> str | None:
    """The id of the study's own run; None where the ledger does not know the study."""
    experiment = ledger.client.get_experiment_by_name(study)
    if experiment is None or experiment.lifecycle_stage != "active":
        return None
    found = ledger.search([experiment.experiment_id], f"tags.`{TAG}kind` = 'study'")
    return max(found, key=lambda run: run.info.start_time).info.run_id if found else None


def study_pictures(ledger: Ledger, study: str) -> dict[str, bytes]:
    """The PNG files that were drawn of the study's models, by name without the ending."""
    parent = parent_run(ledger, study)
    if parent is None:
        return {}
    paths = [entry.path for entry in ledger.client.list_artifacts(parent, FIGURES)]
    with TemporaryDirectory(prefix="pictures-") as directory:
        return {
            PurePosixPath(path).stem: ledger.download(
                f"runs:/{parent}/{path}", Path(directory)
            ).read_bytes()
            for path in paths
            if path.endswith(".png")
        }


def run_address(ledger: Ledger, run: TrialRun) -> str:
    """Where a browser finds the run: on the tracking server, or on `mlflow ui` at its own port."""
    server = ledger.shown_uri if ledger.shown_uri.startswith("http") else ""
    base = server.rstrip("/") or f"http://127.0.0.1:{_PORT}"
    return f"{base}/#/experiments/{run.experiment_id}/runs/{run.run_id}"


def _trial_run(run: Run, study: str) -> TrialRun:
    tags, info = run.data.tags, run.info
    return TrialRun(
        run_id=info.run_id,
        experiment_id=info.experiment_id,
        study=study,
        identity=tags.get(f"{TAG}identity", ""),
        status=info.status,
        variant=tags.get(f"{TAG}variant", ""),
        seed=int(tags.get(f"{TAG}seed", 0)),
        axes={key.removeprefix(_AXIS): tags[key] for key in tags if key.startswith(_AXIS)},
        code=tags.get(f"{TAG}code", ""),
        dataset=run.data.params.get("data.dataset", ""),
        data=tags.get(f"{TAG}data", ""),
        precision=run.data.params.get("training.precision", ""),
        digests=(tags.get(f"{TAG}weights"), tags.get(f"{TAG}init")),
        reason=tags.get(f"{TAG}reason", ""),
        stopped_early=tags.get(STOPPED) == "early",
        started=info.start_time / 1000,
        ended=info.end_time / 1000 if info.end_time else None,
        metrics=dict(run.data.metrics),
    )
