"""Record and plan trials without training."""

from orchestrator.planning.reconcile import Decision, ReconcileOptions, decide
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.tracking.queries import read_snapshot
from orchestrator.tracking.study_run import StudyRun


def decision_on(study_run: StudyRun, trial: ResolvedTrial) -> Decision:
    """Return the decision about a trial, based on the tracking store."""
    records = read_snapshot(study_run.store).by_identity([trial.identity]).get(trial.identity, [])
    return decide(records, study_run.study.config.study, trial.code, ReconcileOptions())


def finish(study_run: StudyRun, trial: ResolvedTrial) -> str:
    """Record a finished run of a trial and return the run's ID."""
    run_id = study_run.begin_trial(trial, None, None)
    study_run.start_trial(run_id, trial.code)
    study_run.log_epoch(run_id, 1, {"val/miou": 0.5})
    study_run.end_trial(run_id, "FINISHED")
    return run_id
