"""Evaluates the finished trials of a study on the connected cluster."""

from collections.abc import Callable, Mapping, Sequence

from orchestrator.context import RunContext
from orchestrator.evaluation.latency import missing_latencies
from orchestrator.evaluation.missing import evaluate_missing
from orchestrator.evaluation.protocols import missing_scores
from orchestrator.evaluation.submissions import missing_submissions
from orchestrator.scheduling.budget import Budget
from orchestrator.study.resolved import ResolvedTrial
from orchestrator.study.study import Study
from orchestrator.tracking.runs import TrialRun
from orchestrator.tracking.store import TrackingStore


def evaluate_finished(
    study: Study,
    trials: Sequence[ResolvedTrial],
    finished: Mapping[str, TrialRun],
    store: TrackingStore,
    context: RunContext,
    budget: Budget,
    start_cluster: Callable[[], None],
) -> dict[str, str]:
    """Score finished trials, write submissions and measure latencies, even beyond the limits of
    `budget`: a reached limit only ends the wait for machines.

    finished: runs by trial name. Returns the causes of failures by trial name.
    """
    run_ids = {name: run.run_id for name, run in finished.items()}
    directory = context.storage.local / "submissions" / study.config.study
    missing = [
        *missing_scores(study, trials, run_ids, store.evaluations),
        *missing_submissions(study, trials, run_ids, store.evaluations, directory),
        *missing_latencies(study, trials, run_ids, store.evaluations),
    ]
    if not missing:
        return {}

    def stop_reason(waits: bool) -> str:
        if context.stop.requested:
            return "stopped"
        reason = budget.pause_reason() if waits else None
        if reason is not None:
            budget.leave_out()
        return reason or ""

    start_cluster()
    context.stop.graceful = True
    failures = evaluate_missing(missing, store, study.config.imports, context.console, stop_reason)
    context.stop.graceful = False
    return failures
