"""What is to be done about each trial of a study: what its file asks for against what the ledger
holds. Pure decisions; the effects are elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.study.resolve import ResolvedTrial
from orchestrator.study.trial_state import TrialState
from orchestrator.tracking.runs import TrialRun, select_run

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
    """A trial's state, and what to do about it.

    run: the run that is left, linked, waited for, resumed or, where the trial never started,
    used; None where there is none.
    """

    state: TrialState
    action: Action
    run: TrialRun | None

    @property
    def finished(self) -> bool:
        """Whether the table shows `run`."""
        return self.state.has_result

    @property
    def will_train(self) -> bool:
        """Whether there is work to do on the trial."""
        return self.action in ("train", "resume")


def decide(
    records: Sequence[TrialRun], study: str, code: str, options: ReconcileOptions
) -> Decision:
    """What to do about one trial of `study`.

    records: all runs of its identity, in every study, oldest first.
    code: the present version.

    Which of them counts, `precedence.select_run` says.
    """
    stale = [run for run in records if run.status == "FINISHED" and run.code != code]
    counting = [run for run in records if not (options.retrain_stale and run in stale)]
    chosen = select_run(counting, study, code)
    if chosen is None:
        return Decision(TrialState.STALE if stale else TrialState.MISSING, "train", None)
    if chosen.status == "FINISHED":
        state = TrialState.FINISHED if chosen.code == code else TrialState.STALE
        return Decision(state, "leave" if chosen.study == study else "link", chosen)
    if chosen.active_elsewhere:
        return Decision(chosen.state, "wait", chosen)
    if chosen.stopped_early and options.searching:
        return Decision(TrialState.STOPPED_EARLY, "leave", chosen)
    if chosen.status == "FAILED":
        return Decision(TrialState.FAILED, "resume" if options.retry_failed else "leave", chosen)
    if chosen.started:
        return Decision(TrialState.INTERRUPTED, "resume", chosen)
    return Decision(TrialState.MISSING, "train", chosen)


def reconcile(
    trials: Sequence[ResolvedTrial],
    records: Mapping[str, Sequence[TrialRun]],
    study: str,
    options: ReconcileOptions,
) -> dict[str, Decision]:
    """Decisions by trial name. records: by identity, as `TrackingStore.records` returns them."""
    return {
        trial.name: decide(records.get(trial.identity, ()), study, trial.code, options)
        for trial in trials
    }
