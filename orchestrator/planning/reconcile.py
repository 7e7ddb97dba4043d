"""Decides what to do about each trial by comparing the study file with the tracking store.

Pure decisions; `sweep` carries them out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.trial_state import TrialState
from orchestrator.tracking.runs import TrialRun, select_run

Action = Literal["leave", "link", "wait", "resume", "train"]


@dataclass(frozen=True)
class ReconcileOptions:
    """Options beyond training missing trials and resuming interrupted ones.

    retry_failed: also resume failed trials.
    retrain_stale: also retrain trials that finished under another code version.
    searching: the study is a search, in which trials stopped early are not resumed.
    """

    retry_failed: bool = False
    retrain_stale: bool = False
    searching: bool = False


@dataclass(frozen=True)
class Decision:
    """A trial's state, and what to do about it.

    run: the existing run to which `action` applies; None if there is none. A run that was created
    but never started is reused by the action "train".
    """

    state: TrialState
    action: Action
    run: TrialRun | None

    @property
    def finished(self) -> bool:
        """Whether `run` has the result that the table shows."""
        return self.state.has_result

    @property
    def will_train(self) -> bool:
        """Whether the trial is to be trained or resumed."""
        return self.action in ("train", "resume")


def decide(runs: Sequence[TrialRun], study: str, code: str, options: ReconcileOptions) -> Decision:
    """Decide what to do about one trial of `study`, by the run that `select_run` chooses.

    runs: all runs with its identity, in every study, oldest first.
    code: the current code version.
    """
    stale = [run for run in runs if run.status == "FINISHED" and run.code != code]
    candidates = [run for run in runs if not (options.retrain_stale and run in stale)]
    chosen = select_run(candidates, study, code)
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
    # Its process has ended, even if the run is open, and only a search keeps early stops.
    ended = replace(chosen, status="KILLED", stopped_early=False)
    return Decision(ended.state, "resume" if chosen.started else "train", chosen)


def reconcile(
    trials: Sequence[ResolvedTrial],
    runs: Mapping[str, Sequence[TrialRun]],
    study: str,
    options: ReconcileOptions,
) -> dict[str, Decision]:
    """Return the decision for each trial, by its name.

    runs: the runs of each identity, oldest first, as `StoreSnapshot.by_identity` returns them.
    """
    return {
        trial.name: decide(runs.get(trial.identity, ()), study, trial.code, options)
        for trial in trials
    }
