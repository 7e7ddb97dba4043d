"""Trials that `--only` leaves out, but whose runs have the name of another trial."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study, Trial
from orchestrator.tracking.runs import TrialRun
from pipelines.errors import UserError


def misnamed_trials(
    study: Study,
    trials: Sequence[ResolvedTrial],
    runs: Sequence[TrialRun],
    resolve: Callable[[Study], Sequence[ResolvedTrial]],
) -> list[ResolvedTrial]:
    """Return the trials that `--only` leaves out, if a run has the name of one of `trials` without
    being its run: rows may have exchanged their names, and the run may be that of a trial that is
    left out. Otherwise, return none, because resolving them takes time.

    Only trials with the data sets and initial weights of `trials` are resolved, because others may
    not be on this machine. runs: of all studies. resolve: resolves the trials of a study.
    """
    names, identities = {t.name for t in trials}, {t.identity for t in trials}
    taken = any(
        run.study == study.config.study and run.name in names and run.identity not in identities
        for run in runs
        if not run.superseded
    )
    if not taken:
        return []
    present = {_inputs(trial) for trial in study.trials}
    others = tuple(t for t in study.all_trials if t.name not in names and _inputs(t) in present)
    try:
        return list(resolve(replace(study, trials=others))) if others else []
    except UserError:  # a command on the whole study reports it, and names the runs
        return []


def _inputs(trial: Trial) -> tuple[str | None, ...]:
    """Return the files that a training reads."""
    training = trial.experiment.training
    return trial.experiment.data.dataset, training.backbone_weights, training.init
