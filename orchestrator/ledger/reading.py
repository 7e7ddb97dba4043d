"""Reading what studies have left in the tracking store, without changing any of it."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from orchestrator.ledger.figures import FIGURES
from orchestrator.ledger.records import TAG, RunStatus, evaluations_in, holder, read_record
from orchestrator.ledger.store import Ledger

_PORT = 5000


@dataclass(frozen=True)
class TrialRun:
    """A trial's run, with all that was recorded of it once.

    name: the trial's in its study. cells: (study, trial) of the cells that it is known to stand
    for: its own, and those that are linked to it. in_work: another living process trains it.
    dataset: as the study named it; data: its fingerprint. weights: where those lay that the
    backbone and the whole network started from; digests: of these two; None without any.
    evaluations: the tags of each later one, by its name. reason: why it failed or was stopped,
    empty where nothing was said. stopped_early: by the early stopping of a search. started and
    ended: seconds since the epoch.
    """

    run_id: str
    experiment_id: str
    study: str
    name: str
    cells: frozenset[tuple[str, str]]
    identity: str
    status: RunStatus
    in_work: bool
    code: str
    dataset: str
    data: str
    precision: str
    weights: tuple[str | None, str | None]
    digests: tuple[str | None, str | None]
    evaluations: Mapping[str, Mapping[str, str]]
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
    """All trials of all studies, oldest first."""
    names = ledger.studies()
    trials: list[Run] = []
    living: set[str] = set()
    linked: dict[str, set[tuple[str, str]]] = {}
    for run in ledger.search(list(names), f"tags.`{TAG}kind` != 'none'"):
        tags = run.data.tags
        if tags[f"{TAG}kind"] == "trial":
            trials.append(run)
        elif tags[f"{TAG}kind"] == "link":
            cell = names[run.info.experiment_id], tags.get(f"{TAG}trial", "")
            linked.setdefault(tags.get(f"{TAG}run", ""), set()).add(cell)
        elif holder(run):
            living.add(run.info.run_id)
    trials.sort(key=lambda run: (run.info.start_time, run.info.run_id))
    return [
        _trial_run(run, names[run.info.experiment_id], linked.get(run.info.run_id, set()), living)
        for run in trials
    ]


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


def _trial_run(run: Run, study: str, linked: Set[tuple[str, str]], living: Set[str]) -> TrialRun:
    """linked: cells that a link leads from; living: the studies' runs that others work on."""
    info, params = run.info, run.data.params
    record = read_record(run, study, run.data.tags.get("mlflow.parentRunId") in living)
    tags = run.data.tags
    places = (params.get(f"training.{key}") for key in ("backbone_weights", "init"))
    backbone, whole = (None if place in (None, "None") else place for place in places)
    return TrialRun(
        run_id=info.run_id,
        experiment_id=info.experiment_id,
        study=study,
        name=record.name,
        cells=frozenset({(study, record.name), *linked}),
        identity=record.identity,
        status=record.status,
        in_work=record.in_work,
        code=record.code,
        dataset=params.get("data.dataset", ""),
        data=tags.get(f"{TAG}data", ""),
        precision=params.get("training.precision", ""),
        weights=(backbone, whole),
        digests=(tags.get(f"{TAG}weights"), tags.get(f"{TAG}init")),
        evaluations=evaluations_in(tags),
        reason=record.reason,
        stopped_early=record.stopped_early,
        started=info.start_time / 1000,
        ended=info.end_time / 1000 if info.end_time else None,
        metrics=record.metrics,
    )
