"""What is read from a run in MLflow: a trial's run, who holds a study, which run counts."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from mlflow.entities import Run

from orchestrator.study.trial_state import TrialState
from orchestrator.tracking import tags as tag
from orchestrator.tracking.claims import Owner

RunStatus = Literal["SCHEDULED", "RUNNING", "FINISHED", "FAILED", "KILLED"]

FIGURES = "figures"  # the folder of a study's drawings among its artifacts

_STATES: Mapping[str, TrialState] = {
    "SCHEDULED": TrialState.WAITING,
    "RUNNING": TrialState.TRAINING,
    "FINISHED": TrialState.FINISHED,
    "FAILED": TrialState.FAILED,
    "KILLED": TrialState.INTERRUPTED,
}


@dataclass(frozen=True)
class TrialRun:
    """A trial's run in the tracking store.

    code: the version that trained it, several joined by `+` where it was resumed under another one,
    empty where it never started. epoch: the last one recorded, 0 before the first. name: the
    trial's in its study. reason: why it failed or was interrupted; may be empty. stopped_early: by
    the early stopping of a search. in_work: another living process trains it or has scheduled it;
    claimed: that process has settled that it does. trials: (study, trial) of the rows it is known
    to serve: its own, and those that link to it. dataset: as the study named it; data: its
    fingerprint. weights: locations of the weights that the backbone and the whole network started
    from; digests: of these two; None without any. evaluations: the settings of each later one, by
    its name. measurement: its times as JSON. started_at and ended_at: seconds since the epoch.
    """

    run_id: str
    study: str
    identity: str
    status: RunStatus
    code: str
    epoch: int
    metrics: Mapping[str, float]
    name: str = ""
    experiment_id: str = ""
    reason: str = ""
    stopped_early: bool = False
    in_work: bool = False
    claimed: bool = False
    trials: frozenset[tuple[str, str]] = frozenset()
    dataset: str = ""
    data: str = ""
    precision: str = ""
    weights: tuple[str | None, str | None] = (None, None)
    digests: tuple[str | None, str | None] = (None, None)
    evaluations: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    measurement: str = ""
    started_at: float = 0.0
    ended_at: float | None = None

    @property
    def state(self) -> TrialState:
        """The state of the run by itself, whatever the present code version is."""
        return TrialState.STOPPED_EARLY if self.stopped_early else _STATES[self.status]

    @property
    def started(self) -> bool:
        """Whether its training ever began."""
        return self.code != ""

    @property
    def hours(self) -> float | None:
        """Wall hours of training, summed over resumes where that was recorded; else from the start
        of the run to its end."""
        seconds = self.metrics.get("trial/seconds")
        if seconds is None and self.ended_at is not None:
            seconds = self.ended_at - self.started_at
        return None if seconds is None else seconds / 3600


def read_trial_run(
    run: Run, study: str, in_work: bool = False, linked: Iterable[tuple[str, str]] = ()
) -> TrialRun:
    """A run of MLflow's as a trial's. study: the name of its experiment. linked: (study, trial) of
    the rows that link to it."""
    info, tags, params, metrics = run.info, run.data.tags, run.data.params, run.data.metrics
    name = tags.get(tag.TRIAL, info.run_name)
    locations = (params.get(f"training.{key}") for key in ("backbone_weights", "init"))
    backbone, whole = (None if text in (None, "None") else text for text in locations)
    return TrialRun(
        run_id=info.run_id,
        study=study,
        identity=tags.get(tag.IDENTITY, ""),
        status=info.status,
        code=tags.get(tag.CODE, ""),
        epoch=int(metrics.get("epoch", 0)),
        metrics=dict(metrics),
        name=name,
        experiment_id=info.experiment_id,
        reason=tags.get(tag.REASON, ""),
        stopped_early=tags.get(tag.STOPPED) == "early",
        in_work=in_work and info.status in ("SCHEDULED", "RUNNING"),
        claimed=tags.get(tag.CLAIM) == "held",
        trials=frozenset({(study, name), *linked}),
        dataset=params.get("data.dataset", ""),
        data=tags.get(tag.DATA, ""),
        precision=params.get("training.precision", ""),
        weights=(backbone, whole),
        digests=(tags.get(tag.WEIGHTS), tags.get(tag.INIT)),
        evaluations=evaluations_in(tags),
        measurement=tags.get(tag.MEASUREMENT, ""),
        started_at=info.start_time / 1000,
        ended_at=info.end_time / 1000 if info.end_time else None,
    )


def evaluations_in(tags: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The settings of each later evaluation of a run, by the evaluation's name."""
    evaluations: dict[str, dict[str, str]] = {}
    for key, value in tags.items():
        if key.startswith(tag.EVALUATION):
            name, _, setting = key.removeprefix(tag.EVALUATION).rpartition(".")
            evaluations.setdefault(name, {})[setting] = value
    return evaluations


def lock_holder(parent: Run) -> tuple[Owner, float] | None:
    """The living process that runs a study, and the seconds since its last heartbeat; None where
    none does. This process itself does not count."""
    if parent.info.status != "RUNNING":
        return None
    tags = parent.data.tags
    owner = Owner.parse(tags.get(tag.OWNER, ""))
    age = time.time() - float(tags.get(tag.HEARTBEAT, "0"))
    return (owner, age) if owner is not None and owner.may_be_alive(age) else None


def is_abandoned(parent: Run) -> bool:
    """Whether a study's run is RUNNING although its process is dead."""
    owner = Owner.parse(parent.data.tags.get(tag.OWNER, ""))
    mine = owner == Owner.this_process()
    return parent.info.status == "RUNNING" and not mine and lock_holder(parent) is None


def select_run(runs: Iterable[TrialRun], study: str, code: str) -> TrialRun | None:
    """The run that counts for a trial of `study`; None where the trial is missing.

    runs: all of its identity, in every study, oldest first. code: the present version.

    A finished run counts in whatever study it is, one of the present code before one of another.
    Next comes what another process trains right now, then what this study left unfinished;
    unfinished runs of other studies belong to them. Of equals, the study's own goes first, then the
    latest.
    """

    def rank(run: TrialRun) -> tuple[int, bool]:
        own = run.study == study
        if run.status == "FINISHED":
            return (3 if run.code == code else 2), own
        return int(run.in_work), own

    counting = [
        run for run in runs if run.status == "FINISHED" or run.in_work or run.study == study
    ]
    return max(reversed(counting), key=rank, default=None)
