"""Reading what studies have left in the tracking store, without changing any of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Literal

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from orchestrator.tracking import tags as tag
from orchestrator.tracking.claims import Owner
from orchestrator.tracking.runs import FIGURES, TrialRun, lock_holder, read_trial_run
from orchestrator.tracking.store import TrackingStore

_PORT = 5000

StudyState = Literal["running", "finished", "failed", "interrupted"]

_STATES: dict[str, StudyState] = {"FINISHED": "finished", "FAILED": "failed"}


@dataclass(frozen=True)
class StudySummary:
    """A study at a glance.

    holder: the process that runs it, and the seconds since its last heartbeat. trials: its own
    runs; links: how many rows were trained by other studies. started: seconds since the epoch.
    command: the arguments it was last run with. stop_requested: from another terminal.
    """

    name: str
    experiment_id: str
    parent_id: str
    state: StudyState
    holder: tuple[Owner, float] | None
    trials: Sequence[TrialRun]
    links: int
    started: float
    command: str
    stop_requested: bool


@dataclass(frozen=True)
class Snapshot:
    """All of this project's runs in a tracking store, at one moment.

    trials: of all studies, oldest first. studies: in the order in which they were begun.
    """

    trials: Sequence[TrialRun]
    studies: Sequence[StudySummary]

    def by_identity(self, identities: Iterable[str]) -> dict[str, list[TrialRun]]:
        """All runs of each trial, in every study, oldest first."""
        wanted = set(identities)
        runs: dict[str, list[TrialRun]] = {}
        for run in self.trials:
            if run.identity in wanted:
                runs.setdefault(run.identity, []).append(run)
        return runs

    @property
    def measurements(self) -> list[str]:
        """The times that the finished trials measured on their devices, as JSON."""
        return [
            run.measurement for run in self.trials if run.measurement and run.status == "FINISHED"
        ]


def take_snapshot(store: TrackingStore) -> Snapshot:
    """Read all runs of all studies in one scan; runs that were deleted in MLflow are left out."""
    names = store.studies()
    runs: dict[str, list[Run]] = {"study": [], "trial": [], "link": []}
    for run in store.search(list(names), f"tags.`{tag.KIND}` != 'none'"):
        runs[run.data.tags[tag.KIND]].append(run)
    runs["trial"].sort(key=lambda run: (run.info.start_time, run.info.run_id))
    living = {parent.info.run_id for parent in runs["study"] if lock_holder(parent)}
    linked: dict[str, set[tuple[str, str]]] = {}
    links: dict[str, int] = {}
    for run in runs["link"]:
        experiment, tags = run.info.experiment_id, run.data.tags
        links[experiment] = links.get(experiment, 0) + 1
        linked.setdefault(tags.get(tag.RUN, ""), set()).add(
            (names[experiment], tags.get(tag.TRIAL, ""))
        )
    trials = [
        read_trial_run(
            run,
            names[run.info.experiment_id],
            run.data.tags.get("mlflow.parentRunId") in living,
            linked.get(run.info.run_id, ()),
        )
        for run in runs["trial"]
    ]
    parents = {parent.info.experiment_id: parent for parent in runs["study"]}
    by_experiment: dict[str, list[TrialRun]] = {experiment: [] for experiment in names}
    for trial in trials:
        by_experiment[trial.experiment_id].append(trial)
    summaries = [
        _summary(parent, names[experiment], by_experiment[experiment], links.get(experiment, 0))
        for experiment, parent in parents.items()
    ]
    return Snapshot(trials, sorted(summaries, key=lambda study: study.started))


def _summary(parent: Run, name: str, trials: Sequence[TrialRun], links: int) -> StudySummary:
    holder = lock_holder(parent)
    return StudySummary(
        name=name,
        experiment_id=parent.info.experiment_id,
        parent_id=parent.info.run_id,
        state="running" if holder else _STATES.get(parent.info.status, "interrupted"),
        holder=holder,
        trials=sorted(trials, key=lambda run: run.name),
        links=links,
        started=parent.info.start_time / 1000,
        command=parent.data.tags.get(tag.COMMAND, ""),
        stop_requested=tag.STOP in parent.data.tags,
    )


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
    found = store.search([experiment.experiment_id], f"tags.`{tag.KIND}` = 'study'")
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
