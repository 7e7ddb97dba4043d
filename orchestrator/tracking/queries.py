"""Reading what studies have left in the tracking store, without changing any of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Literal

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from orchestrator.tracking.claims import Owner
from orchestrator.tracking.runs import (
    FIGURES,
    TAG,
    Record,
    TrialRun,
    _trial_run,
    lock_holder,
    read_record,
)
from orchestrator.tracking.store import TrackingStore

_PORT = 5000

StudyState = Literal["running", "finished", "failed", "stopped"]

_STATES: dict[str, StudyState] = {"FINISHED": "finished", "FAILED": "failed"}


def trial_runs(store: TrackingStore) -> list[TrialRun]:
    """All trials of all studies, oldest first."""
    names = store.studies()
    trials: list[Run] = []
    living: set[str] = set()
    linked: dict[str, set[tuple[str, str]]] = {}
    for run in store.search(list(names), f"tags.`{TAG}kind` != 'none'"):
        tags = run.data.tags
        if tags[f"{TAG}kind"] == "trial":
            trials.append(run)
        elif tags[f"{TAG}kind"] == "link":
            trial = names[run.info.experiment_id], tags.get(f"{TAG}trial", "")
            linked.setdefault(tags.get(f"{TAG}run", ""), set()).add(trial)
        elif lock_holder(run):
            living.add(run.info.run_id)
    trials.sort(key=lambda run: (run.info.start_time, run.info.run_id))
    return [
        _trial_run(run, names[run.info.experiment_id], linked.get(run.info.run_id, set()), living)
        for run in trials
    ]


def history(store: TrackingStore, run_id: str, metric: str) -> list[tuple[int, float]]:
    """`(epoch, value)` of a metric, first epoch first; empty where there is none."""
    try:
        recorded = store.client.get_metric_history(run_id, metric)
    except MlflowException:
        return []
    return sorted({entry.step: entry.value for entry in recorded}.items())


def parent_run(store: TrackingStore, study: str) -> str | None:
    """The id of the study's own run; None where the ledger does not know the study."""
    experiment = store.client.get_experiment_by_name(study)
    if experiment is None or experiment.lifecycle_stage != "active":
        return None
    found = store.search([experiment.experiment_id], f"tags.`{TAG}kind` = 'study'")
    return max(found, key=lambda run: run.info.start_time).info.run_id if found else None


def study_pictures(store: TrackingStore, study: str) -> dict[str, bytes]:
    """The PNG files that were drawn of the study's models, by name without the ending."""
    parent = parent_run(store, study)
    if parent is None:
        return {}
    paths = [entry.path for entry in store.client.list_artifacts(parent, FIGURES)]
    with TemporaryDirectory(prefix="pictures-") as directory:
        return {
            PurePosixPath(path).stem: store.download(
                f"runs:/{parent}/{path}", Path(directory)
            ).read_bytes()
            for path in paths
            if path.endswith(".png")
        }


def run_address(store: TrackingStore, run: TrialRun) -> str:
    """Where a browser finds the run: on the tracking server, or on `mlflow ui` at its own port."""
    server = store.shown_uri if store.shown_uri.startswith("http") else ""
    base = server.rstrip("/") or f"http://127.0.0.1:{_PORT}"
    return f"{base}/#/experiments/{run.experiment_id}/runs/{run.run_id}"


@dataclass(frozen=True)
class StudySummary:
    """A study as it stands. owner: the process that runs it, and seconds since its sign of life.

    trials: of this study; links: trials that were trained by others. started: seconds since the
    epoch. command: how it was last run, as `StudyRun.open` was told. asked_to_stop: by another
    terminal.
    """

    name: str
    experiment_id: str
    parent_id: str
    state: StudyState
    owner: tuple[Owner, float] | None
    trials: Sequence[Record]
    links: int
    started: float
    command: str
    asked_to_stop: bool


def studies(store: TrackingStore) -> list[StudySummary]:
    """Every study, in the order in which they were begun."""
    names = store.studies()
    parents: dict[str, Run] = {}
    trials: dict[str, list[Record]] = {}
    links: dict[str, int] = {}
    for run in store.search(list(names), f"tags.`{TAG}kind` != 'none'"):
        kind, experiment = run.data.tags[f"{TAG}kind"], run.info.experiment_id
        if kind == "study":
            parents[experiment] = run
        elif kind == "trial":
            trials.setdefault(experiment, []).append(read_record(run, names[experiment]))
        elif kind == "link":
            links[experiment] = links.get(experiment, 0) + 1
    found = [
        StudySummary(
            name=names[experiment],
            experiment_id=experiment,
            parent_id=parent.info.run_id,
            state="running" if lock_holder(parent) else _STATES.get(parent.info.status, "stopped"),
            owner=lock_holder(parent),
            trials=sorted(trials.get(experiment, []), key=lambda record: record.name),
            links=links.get(experiment, 0),
            started=parent.info.start_time / 1000,
            command=parent.data.tags.get(f"{TAG}command", ""),
            asked_to_stop=f"{TAG}stop" in parent.data.tags,
        )
        for experiment, parent in parents.items()
    ]
    return sorted(found, key=lambda view: view.started)
