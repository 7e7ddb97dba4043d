"""What is to be done about each trial of a study: what its file asks for against what the ledger
holds. Pure decisions; the effects are elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.study.resolve import ResolvedTrial
from orchestrator.tracking.runs import Record, select_run

Standing = Literal[
    "finished", "stale", "stopped early", "running elsewhere", "to resume", "failed", "missing"
]
Action = Literal["leave", "link", "wait", "resume", "train"]


@dataclass(frozen=True)
class ReconcileOptions:
    """What the user wants beyond training what is missing and resuming what was interrupted.

    searching: the study is a search, in which a trial that was given up early is done with.
    """

    retry_failed: bool = False
    retrain_stale: bool = False
    searching: bool = False


@dataclass(frozen=True)
class Decision:
    """A trial's standing, and what is done about it.

    record: the run that is left, linked, waited for, resumed or, where the trial never started,
    used; None where there is none.
    """

    standing: Standing
    action: Action
    record: Record | None

    @property
    def finished(self) -> bool:
        """Whether `record` stands in the table."""
        return self.standing in ("finished", "stale", "stopped early")

    @property
    def will_train(self) -> bool:
        """Whether there is work to do on the trial."""
        return self.action in ("train", "resume")


def decide(records: Sequence[Record], study: str, code: str, options: ReconcileOptions) -> Decision:
    """What to do about one trial of `study`.

    records: all runs of its identity, in every study, oldest first.
    code: the present version.

    Which of them counts, `precedence.select_run` says.
    """
    stale = [run for run in records if run.status == "FINISHED" and run.code != code]
    counting = [run for run in records if not (options.retrain_stale and run in stale)]
    chosen = select_run(counting, study, code)
    if chosen is None:
        return Decision("stale" if stale else "missing", "train", None)
    if chosen.status == "FINISHED":
        standing: Standing = "finished" if chosen.code == code else "stale"
        return Decision(standing, "leave" if chosen.study == study else "link", chosen)
    if chosen.in_work:
        return Decision("running elsewhere", "wait", chosen)
    if chosen.stopped_early and options.searching:
        return Decision("stopped early", "leave", chosen)
    if chosen.status == "FAILED":
        return Decision("failed", "resume" if options.retry_failed else "leave", chosen)
    if chosen.started:
        return Decision("to resume", "resume", chosen)
    return Decision("missing", "train", chosen)


def reconcile(
    trials: Sequence[ResolvedTrial],
    records: Mapping[str, Sequence[Record]],
    study: str,
    options: ReconcileOptions,
) -> dict[str, Decision]:
    """Decisions by trial name. records: by identity, as `TrackingStore.records` returns them."""
    return {
        trial.name: decide(records.get(trial.identity, ()), study, trial.code, options)
        for trial in trials
    }
