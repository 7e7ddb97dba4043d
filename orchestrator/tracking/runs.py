"""What is read from a run of MLflow's: a trial as the ledger holds it, and who is at work."""

import time
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from mlflow.entities import Run

from orchestrator.tracking.claims import Owner

RunStatus = Literal["SCHEDULED", "RUNNING", "FINISHED", "FAILED", "KILLED"]


# What every tag of this project begins with.
TAG = "orchestrator."

# What a finished trial measured of its device, see planning.measurements.
MEASUREMENT = f"{TAG}measurement"

# `early` on the run of a trial that early stopping has given up.
STOPPED = f"{TAG}stopped"

FIGURES = "figures"


@dataclass(frozen=True)
class Record:
    """One trial's run as the ledger holds it.

    name: the trial's name in its study. epoch: the last one recorded, 0 before the first. code: the
    version that trained it, two joined by `+` where it was resumed under another one, empty where
    it never started. stopped_early: given up by the early stopping of a search. reason: why it
    ended, where that is worth a word. in_work: another living process trains it or has it
    scheduled. claimed: that process has settled who trains it.
    """

    run_id: str
    study: str
    identity: str
    status: RunStatus
    code: str
    epoch: int
    metrics: dict[str, float]
    name: str = ""
    experiment_id: str = ""
    reason: str = ""
    stopped_early: bool = False
    in_work: bool = False
    claimed: bool = False

    @property
    def started(self) -> bool:
        """Whether its training ever began."""
        return self.code != ""


def read_record(run: Run, study: str, in_work: bool = False) -> Record:
    """A run of MLflow's in the study's own terms. study: the name of the run's experiment."""
    tags, metrics = run.data.tags, run.data.metrics
    return Record(
        run_id=run.info.run_id,
        study=study,
        identity=tags.get(f"{TAG}identity", ""),
        status=run.info.status,
        code=tags.get(f"{TAG}code", ""),
        epoch=int(metrics.get("epoch", 0)),
        metrics=dict(metrics),
        name=tags.get(f"{TAG}trial", run.info.run_name),
        experiment_id=run.info.experiment_id,
        reason=tags.get(f"{TAG}reason", ""),
        stopped_early=tags.get(STOPPED) == "early",
        in_work=in_work and run.info.status in ("SCHEDULED", "RUNNING"),
        claimed=tags.get(f"{TAG}claim") == "held",
    )


def evaluations_in(tags: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """What a run's tags say of each later evaluation of it, by the evaluation's name."""
    start = f"{TAG}eval."
    found: dict[str, dict[str, str]] = {}
    for tag, value in tags.items():
        if tag.startswith(start):
            name, _, key = tag.removeprefix(start).rpartition(".")
            found.setdefault(name, {})[key] = value
    return found


def lock_holder(parent: Run) -> tuple[Owner, float] | None:
    """The living process that runs a study, and the seconds since its last sign of life; None where
    none does. This process itself does not count."""
    if parent.info.status != "RUNNING":
        return None
    tags = parent.data.tags
    owner = Owner.parse(tags.get(f"{TAG}owner", ""))
    age = time.time() - float(tags.get(f"{TAG}heartbeat", "0"))
    return (owner, age) if owner is not None and owner.may_be_alive(age) else None


def is_abandoned(parent: Run) -> bool:
    """Whether a study's run is RUNNING although its process is dead."""
    owner = Owner.parse(parent.data.tags.get(f"{TAG}owner", ""))
    mine = owner == Owner.this_process()
    return parent.info.status == "RUNNING" and not mine and lock_holder(parent) is None


@dataclass(frozen=True)
class TrialRun:
    """A trial's run, with all that was recorded of it once.

    name: the trial's in its study. trials: (study, trial) of the trials that it is known to stand
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
    trials: frozenset[tuple[str, str]]
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


def _trial_run(run: Run, study: str, linked: Set[tuple[str, str]], living: Set[str]) -> TrialRun:
    """linked: trials that a link leads from; living: the studies' runs that others work on."""
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
        trials=frozenset({(study, record.name), *linked}),
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


class Candidate(Protocol):
    """A run of the trial, in any study. in_work: another living process trains it."""

    @property
    def study(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def code(self) -> str: ...
    @property
    def in_work(self) -> bool: ...


AnyRun = TypeVar("AnyRun", bound=Candidate)


def select_run(runs: Iterable[AnyRun], study: str, code: str) -> AnyRun | None:
    """The run that stands for a trial of `study`; None where the trial is missing.

    runs: all of its identity, in every study, oldest first. code: the present version.

    A finished run counts wherever it is, one of the present code before one of another. Then comes
    what another process trains right now, then what this study left unfinished; unfinished runs of
    other studies are theirs. Of equals, the study's own goes first, then the latest.
    """

    def rank(run: AnyRun) -> tuple[int, bool]:
        own = run.study == study
        if run.status == "FINISHED":
            return (3 if run.code == code else 2), own
        return int(run.in_work), own

    counting = [
        run for run in runs if run.status == "FINISHED" or run.in_work or run.study == study
    ]
    return max(reversed(counting), key=rank, default=None)
