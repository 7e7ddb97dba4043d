"""Read-only queries of the tracking store."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Literal

from mlflow.entities import Experiment, Run, ViewType
from mlflow.exceptions import MlflowException

from orchestrator.tracking import tags as tag
from orchestrator.tracking.claims import Owner
from orchestrator.tracking.liveness import LockHolder
from orchestrator.tracking.mlflow_view import run_path
from orchestrator.tracking.runs import FIGURES, TrialRun, read_trial_run
from orchestrator.tracking.store import TrackingError, TrackingStore
from pipelines.wording import option

_PORT = 5000

StudyState = Literal["running", "silent", "finished", "failed", "interrupted"]

_STATES: dict[str, StudyState] = {"FINISHED": "finished", "FAILED": "failed"}


@dataclass(frozen=True)
class StudySummary:
    """The state of a study.

    state: `silent` if the last heartbeat of the process that runs it seems to be minutes old.
    lock_holder: that process. trials: its own runs, in the order in which they were created, which
    is that of the study file. links: its rows that another study or row trained, each as that run
    with the row's own name. started: seconds since the epoch. command: the arguments of its last
    run, as JSON. stop_requested: by another terminal.
    """

    name: str
    experiment_id: str
    parent_id: str
    state: StudyState
    lock_holder: LockHolder | None
    trials: Sequence[TrialRun]
    links: Sequence[TrialRun]
    started: float
    command: str
    stop_requested: bool

    @property
    def present(self) -> list[TrialRun]:
        """One run for each of its trials that has any: the linked one, or else the newest."""
        runs = [*(run for run in self.trials if not run.superseded), *self.links]
        return list({(run.identity, run.name): run for run in runs}.values())


@dataclass(frozen=True)
class StoreSnapshot:
    """All of this project's runs in a tracking store, at one moment.

    trials: of all studies, oldest first. studies: in the order in which they were started.
    """

    trials: Sequence[TrialRun]
    studies: Sequence[StudySummary]

    def by_identity(self, identities: Iterable[str]) -> dict[str, list[TrialRun]]:
        """Return the runs with each identity, in every study, oldest first."""
        requested = set(identities)
        runs: dict[str, list[TrialRun]] = {}
        for run in self.trials:
            if run.identity in requested:
                runs.setdefault(run.identity, []).append(run)
        return runs

    @property
    def measurements(self) -> list[str]:
        """The timings that finished trials measured on their devices, as JSON."""
        return [
            run.measurement for run in self.trials if run.measurement and run.status == "FINISHED"
        ]


def read_snapshot(
    store: TrackingStore, study: str | None = None, trust_clocks: bool = True
) -> StoreSnapshot:
    """Read all runs of all studies in one scan, except runs that were deleted in MLflow.

    study: read only this study; rows of other studies that link to its runs are then unknown.
    trust_clocks: whether a process has ended if the time of its last heartbeat says so, which may
    be wrong but is known at once. Commands that train trust only heartbeats that they have watched.
    """
    names = store.experiment_names()
    if study is not None:
        names = {experiment: name for experiment, name in names.items() if name == study}
        if not names:
            return StoreSnapshot((), ())
    runs: dict[str, list[Run]] = {"study": [], "trial": [], "link": []}
    for run in store.search(list(names), f"tags.`{tag.KIND}` != 'none'"):
        runs[run.data.tags[tag.KIND]].append(run)
    runs["trial"].sort(key=_age)
    runs["link"].sort(key=_age)
    runs["study"].sort(key=_age)
    active: set[str] = set()
    ended: set[str] = set()
    for parent in runs["study"]:
        holder = store.liveness.lock_holder(parent)
        if holder is not None and not (trust_clocks and holder.is_silent):
            active.add(parent.info.run_id)
        elif holder is not None or store.liveness.has_ended(parent):
            ended.add(parent.info.run_id)
    linked: dict[str, set[tuple[str, str]]] = {}
    links: dict[str, list[TrialRun]] = {}
    for run in runs["link"]:
        experiment, target = run.info.experiment_id, run.data.tags.get(tag.RUN, "")
        link = replace(read_trial_run(run, names[experiment]), run_id=target)
        links.setdefault(experiment, []).append(link)
        linked.setdefault(target, set()).add((link.study, link.name))
    trials = [
        read_trial_run(
            run,
            names[run.info.experiment_id],
            run.data.tags.get("mlflow.parentRunId") in active,
            linked.get(run.info.run_id, ()),
            left_open=run.data.tags.get("mlflow.parentRunId") in ended,
        )
        for run in runs["trial"]
    ]
    parents: dict[str, Run] = {}
    for parent in runs["study"]:
        parents.setdefault(parent.info.experiment_id, parent)  # the oldest, as the lock
    by_experiment: dict[str, list[TrialRun]] = {experiment: [] for experiment in names}
    for trial in trials:
        by_experiment[trial.experiment_id].append(trial)
    summaries = [
        _summary(
            parent,
            names[experiment],
            by_experiment[experiment],
            links.get(experiment, []),
            store.liveness.lock_holder(parent),
        )
        for experiment, parent in parents.items()
    ]
    return StoreSnapshot(trials, sorted(summaries, key=lambda study: study.started))


def shared_file_warning(store: TrackingStore, snapshot: StoreSnapshot) -> str:
    """Return a warning if processes on other hosts write to the store's SQLite file, or an empty
    string. Its locks are unreliable on NFS."""
    if not store.tracking_uri.startswith("sqlite:"):
        return ""
    others = [
        f"study {study.name!r} on {study.lock_holder.owner.host}"
        for study in snapshot.studies
        if study.lock_holder is not None
        and study.lock_holder.owner.host != Owner.this_process().host
    ]
    if not others:
        return ""
    return (
        f"other hosts write to {store.tracking_uri} ({', '.join(others)}), which can damage a "
        "SQLite file on NFS; run one study at a time, or set MLFLOW_TRACKING_URI to a tracking "
        "server (docs/cluster.md)"
    )


def _summary(
    parent: Run,
    name: str,
    trials: Sequence[TrialRun],
    links: Sequence[TrialRun],
    lock_holder: LockHolder | None,
) -> StudySummary:
    state = _STATES.get(parent.info.status, "interrupted")
    if lock_holder is not None:
        state = "silent" if lock_holder.is_silent else "running"
    return StudySummary(
        name=name,
        experiment_id=parent.info.experiment_id,
        parent_id=parent.info.run_id,
        state=state,
        lock_holder=lock_holder,
        trials=trials,
        links=links,
        started=parent.info.start_time / 1000,
        command=parent.data.tags.get(tag.COMMAND, ""),
        stop_requested=tag.STOP in parent.data.tags,
    )


def find_experiment(store: TrackingStore, study: str) -> Experiment | None:
    """Return the study's experiment in MLflow; None if it does not exist yet.

    Raises TrackingError if the experiment was deleted, or if it belongs to somebody else: it does
    not bear this project's tag, and has runs or a description.
    """
    experiment = store.client.get_experiment_by_name(study)
    if experiment is None:
        return None
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"study {study!r} was deleted in MLflow; restore or purge it there, or rename the study"
        )
    if tag.KIND not in experiment.tags and not _may_adopt(store, experiment):
        raise TrackingError(
            f"MLflow at {store.display_uri} has an experiment {study!r} that is not a study of "
            f"this project; rename the study, for example with {option('set')} study=NAME"
        )
    return experiment


def _may_adopt(store: TrackingStore, experiment: Experiment) -> bool:
    """Whether an experiment without this project's tag has a study's run, or is empty."""
    client, experiments = store.client, [experiment.experiment_id]
    if client.search_runs(experiments, f"tags.`{tag.KIND}` = 'study'", max_results=1):
        return True
    is_described = "mlflow.note.content" in experiment.tags
    return not is_described and not client.search_runs(
        experiments, run_view_type=ViewType.ALL, max_results=1
    )


def is_training(store: TrackingStore, run_id: str) -> bool:
    """Whether a trial's run is open, and the process that runs its study has not ended."""
    run = store.client.get_run(run_id)
    if run.info.status not in ("SCHEDULED", "RUNNING"):
        return False
    parent = store.client.get_run(run.data.tags["mlflow.parentRunId"])
    return not store.liveness.has_ended(parent)


def history(store: TrackingStore, run_id: str, metric: str) -> list[tuple[int, float]]:
    """Return `(epoch, value)` of a metric by ascending epoch; empty if it was never recorded."""
    try:
        entries = store.client.get_metric_history(run_id, metric)
    except MlflowException:
        return []
    return sorted({entry.step: entry.value for entry in entries}.items())


def parent_run_id(store: TrackingStore, study: str) -> str | None:
    """Return the id of the study's parent run; None if the store has no such study."""
    parent = _parent(store, study)
    return None if parent is None else parent.info.run_id


def viewing_instructions(store: TrackingStore, study: str) -> str:
    """Return instructions for opening the study's pages in MLflow; empty if the store has no such
    study."""
    parent = _parent(store, study)
    if parent is None:
        return ""
    return store.viewing_instructions(parent.info.experiment_id, parent.info.run_id)


def _parent(store: TrackingStore, study: str) -> Run | None:
    experiment = store.client.get_experiment_by_name(study)
    if experiment is None or experiment.lifecycle_stage != "active":
        return None
    return next(iter(find_parents(store, experiment.experiment_id)), None)


def find_parents(store: TrackingStore, experiment_id: str) -> list[Run]:
    """Return the study's parent runs, oldest first: one, except in the moment when two processes
    start the same study. The oldest is the study's."""
    return sorted(store.search([experiment_id], f"tags.`{tag.KIND}` = 'study'"), key=_age)


def _age(run: Run) -> tuple[int, str]:
    """Return a key that sorts runs, oldest first."""
    return run.info.start_time, run.info.run_id


def study_figures(store: TrackingStore, study: str) -> dict[str, bytes]:
    """Return the PNG figures of the study's models, by file name without the suffix."""
    parent = parent_run_id(store, study)
    if parent is None:
        return {}
    paths = [entry.path for entry in store.client.list_artifacts(parent, FIGURES)]
    with TemporaryDirectory(prefix="figures-") as directory:
        return {
            PurePosixPath(path).stem: store.download(
                f"runs:/{parent}/{path}", Path(directory)
            ).read_bytes()
            for path in paths
            if path.endswith(".png")
        }


def run_url(store: TrackingStore, run: TrialRun) -> str:
    """Return the run's URL on the tracking server, or on `mlflow ui` at its default port."""
    server = store.display_uri if store.display_uri.startswith("http") else ""
    base = server.rstrip("/") or f"http://127.0.0.1:{_PORT}"
    return f"{base}/{run_path(run.experiment_id, run.run_id)}"
