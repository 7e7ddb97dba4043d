"""Reads MLflow's runs: a trial's run, and which run represents a trial."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from mlflow.entities import Run

from orchestrator.study.sampling import SearchSample
from orchestrator.study.trial_state import TrialState
from orchestrator.tracking import tags as tag

RunStatus = Literal["SCHEDULED", "RUNNING", "FINISHED", "FAILED", "KILLED"]

FIGURES = "figures"  # the artifact folder of a study's figures

# Why a run was interrupted if its process died.
ENDED_UNCLOSED = "its process ended without closing it"

_STATES: Mapping[str, TrialState] = {
    "SCHEDULED": TrialState.WAITING,
    "RUNNING": TrialState.TRAINING,
    "FINISHED": TrialState.FINISHED,
    "FAILED": TrialState.FAILED,
    "KILLED": TrialState.INTERRUPTED,
}


# Scores of the validation, and of a later evaluation by its name.
_SCORE = re.compile(r"(val|eval/[^/]+)/")
_MIOU = re.compile(r"(val|eval/[^/]+)/miou")


@dataclass(frozen=True)
class TrialRun:
    """A trial's run in the tracking store.

    code: the version of the code that trained it, several joined by `+` if it was resumed under
    another version, empty if it never started. epoch: the last recorded epoch, 0 before the first.
    name: the trial's name in its study; labeled_name: the same with the variant's label;
    former_names: both, before the study was edited. reason: why it failed or was interrupted; may
    be empty. variant, axes, sample: its row, the grid's values as text, and its sample of a search.
    stopped_early: by the early stopping of a search. superseded: the study no longer has this
    trial. active_elsewhere: another live process has scheduled or is training it; claimed: that
    process holds the claim. trials: (study, trial) of the rows that it serves: its own, and those
    that link to it. workers: their number, several joined by `+` if it changed; empty before the
    first epoch. dataset: as named by the study; data: the data set's fingerprint; data_warnings:
    what limits the scores on it. weights: locations of the initial weights of the backbone and of
    the whole network; digests: of these two; None if there are none. evaluations: the settings of
    each later evaluation, by its name. measurement: its timings as JSON. started_at: when it was
    scheduled; ended_at: that plus its training time, see `shown_end`; closed_at: when it ended; all
    in seconds since the epoch.
    """

    run_id: str
    study: str
    identity: str
    status: RunStatus
    code: str
    epoch: int
    metrics: Mapping[str, float]
    name: str = ""
    labeled_name: str = ""
    former_names: tuple[str, ...] = ()
    experiment_id: str = ""
    reason: str = ""
    variant: str = ""
    axes: Mapping[str, str] = field(default_factory=dict)
    sample: SearchSample | None = None
    stopped_early: bool = False
    superseded: bool = False
    active_elsewhere: bool = False
    claimed: bool = False
    trials: frozenset[tuple[str, str]] = frozenset()
    dataset: str = ""
    data: str = ""
    data_warnings: tuple[str, ...] = ()
    precision: str = ""
    workers: str = ""
    weights: tuple[str | None, str | None] = (None, None)
    digests: tuple[str | None, str | None] = (None, None)
    evaluations: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    measurement: str = ""
    started_at: float = 0.0
    ended_at: float | None = None
    closed_at: float | None = None

    @property
    def state(self) -> TrialState:
        """The state of the run, regardless of the current version of the code."""
        if self.stopped_early:
            return TrialState.STOPPED_EARLY
        if self.status == "KILLED" and not self.started:
            return TrialState.MISSING
        return _STATES[self.status]

    @property
    def started(self) -> bool:
        """Whether its training ever started."""
        return self.code != ""

    @property
    def hours(self) -> float | None:
        """Wall-clock hours of training and validation, summed over resumes; None before the first
        checkpoint."""
        seconds = self.metrics.get("trial/seconds")
        return None if seconds is None else seconds / 3600


def _latest_scores(run: Run) -> dict[str, float]:
    """Return a run's metrics. MLflow keeps the last value of each: a score that the last evaluation
    lacks, such as the IoU of a class that does not occur any more, is of an earlier one, and is
    left out."""
    metrics = dict(run.data.metrics)
    evaluations = {match[1] for name in metrics if (match := _MIOU.fullmatch(name))}
    if not evaluations:
        return metrics
    steps = {metric.key: metric.step for metric in run.data.to_proto().metrics}

    def is_latest(name: str) -> bool:
        match = _SCORE.match(name)
        of = match[1] if match else ""
        return of not in evaluations or steps[name] == steps[f"{of}/miou"]

    return {name: value for name, value in metrics.items() if is_latest(name)}


def read_trial_run(
    run: Run,
    study: str,
    active_elsewhere: bool = False,
    linked: Iterable[tuple[str, str]] = (),
    left_open: bool = False,
) -> TrialRun:
    """Convert MLflow's run of a trial. study: the name of its experiment. linked: (study, trial) of
    the rows that link to it. left_open: an open run counts as interrupted, because the process that
    runs its study has ended without closing it."""
    info, tags, params, metrics = run.info, run.data.tags, run.data.params, run.data.metrics
    name = tags.get(tag.TRIAL, info.run_name)
    locations = (params.get(f"training.{key}") for key in ("backbone_weights", "init"))
    backbone, whole = (None if text in (None, "None") else text for text in locations)
    closed = tags.get(tag.ENDED)
    ended_at = info.end_time / 1000 if info.end_time else None
    left_open = left_open and info.status in ("SCHEDULED", "RUNNING")
    return TrialRun(
        run_id=info.run_id,
        study=study,
        identity=tags.get(tag.IDENTITY, ""),
        status="KILLED" if left_open else info.status,
        code=tags.get(tag.CODE, ""),
        epoch=int(metrics.get("epoch", 0)),
        metrics=_latest_scores(run),
        name=name,
        labeled_name=tag.labeled_name(name, tags),
        former_names=tuple(tags.get(tag.FORMER_NAMES, "").splitlines()),
        experiment_id=info.experiment_id,
        reason=ENDED_UNCLOSED if left_open else tags.get(tag.REASON, ""),
        variant=tags.get(tag.VARIANT, ""),
        axes={k.removeprefix(tag.AXIS): v for k, v in tags.items() if k.startswith(tag.AXIS)},
        sample=tag.sample_in(tags),
        stopped_early=tags.get(tag.STOPPED) == "early",
        superseded=tags.get(tag.SUPERSEDED) == "yes",
        active_elsewhere=active_elsewhere and info.status in ("SCHEDULED", "RUNNING"),
        claimed=tags.get(tag.CLAIM) == "held",
        trials=frozenset({(study, name), *linked}),
        dataset=params.get("data.dataset", ""),
        data=tags.get(tag.DATA, ""),
        data_warnings=tuple(tags.get(tag.DATA_WARNINGS, "").splitlines()),
        precision=params.get("training.precision", ""),
        workers=tags.get(tag.WORKERS, ""),
        weights=(backbone, whole),
        digests=(tags.get(tag.WEIGHTS), tags.get(tag.INIT)),
        evaluations=evaluations_in(tags),
        measurement=tags.get(tag.MEASUREMENT, ""),
        started_at=info.start_time / 1000,
        ended_at=ended_at,
        closed_at=datetime.fromisoformat(closed).timestamp() if closed else ended_at,
    )


def shown_end(run: Run, now: datetime) -> int:
    """Return the end time, in milliseconds, with which MLflow shows a trial's training time as its
    duration: without waiting, and summed over resumes.

    MLflow cannot change the start time of a run, which is created when the trial is scheduled. A
    trial that ends before its first checkpoint has trained since its processes started.
    """
    seconds = run.data.metrics.get("trial/seconds")
    if seconds is None:
        started = run.data.tags.get(tag.STARTED)
        seconds = (now - datetime.fromisoformat(started)).total_seconds() if started else 0.0
    return int(run.info.start_time) + round(1000 * max(0.0, seconds))


def timestamp(now: datetime | None = None) -> str:
    """Return the time, in UTC and to the millisecond, as the tags record it."""
    return (now or datetime.now(UTC)).isoformat(timespec="milliseconds")


def evaluations_in(tags: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the settings of each later evaluation of a run, by the evaluation's name."""
    evaluations: dict[str, dict[str, str]] = {}
    for key, value in tags.items():
        if key.startswith(tag.EVALUATION):
            name, _, setting = key.removeprefix(tag.EVALUATION).rpartition(".")
            evaluations.setdefault(name, {})[setting] = value
    return evaluations


def select_run(runs: Iterable[TrialRun], study: str, code: str) -> TrialRun | None:
    """Select the run that represents a trial of `study`; None if the trial is missing.

    runs: all runs of its identity, in every study, oldest first. code: the current version.

    Finished runs of any study come first, those of the current code before those of others. Then
    come runs that another process is training now, then unfinished runs of this study; unfinished
    runs of other studies belong to them. Ties go to the study's own run, then to the one with the
    most epochs (MLflow may create a run twice if the answer to the first request is lost), then to
    the latest.
    """

    def rank(run: TrialRun) -> tuple[int, bool, int]:
        own = run.study == study
        if run.status == "FINISHED":
            return (3 if run.code == code else 2), own, 0
        return int(run.active_elsewhere), own, run.epoch

    candidates = [
        run
        for run in runs
        if run.status == "FINISHED" or run.active_elsewhere or run.study == study
    ]
    return max(reversed(candidates), key=rank, default=None)
