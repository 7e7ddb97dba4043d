"""A study of `kind: profile`: parameters and multiply-adds of its trials beside the published ones.

Nothing is trained, and no data set is needed.
"""

from orchestrator.context import RunContext
from orchestrator.report.study_report import StudyReport
from orchestrator.study.model_cost import profile_costs
from orchestrator.study.study import Study
from orchestrator.tracking.store import open_store
from orchestrator.tracking.study_run import StudyRun


def run_profile(study: Study, context: RunContext, plan_only: bool = False) -> bool:
    """Print the profile, and keep that of the whole study with its run in the ledger, unless
    `plan_only`. Raises StudyError where a row names a part that its network does not have, and
    TrackingError."""
    costs = profile_costs(study)
    store = open_store(context.storage)
    StudyReport(study, store, costs=costs).read().print(context.console)
    if plan_only:
        return True
    study_run = StudyRun.open(store, study)
    study_run.note_command(context.command)
    finished = False
    try:
        if study_run.page.is_own:
            whole = StudyReport(study.whole, store, costs=profile_costs(study.whole))
            whole.keep(whole.documents(whole.read()))
        else:
            say = study_run.page.note
            context.console.print(
                say, style="yellow", markup=False, highlight=False, soft_wrap=True
            )
        finished = True
    finally:
        study_run.close("FINISHED" if finished else "FAILED")
    how = store.how_to_look(study_run.experiment_id)
    context.console.print(f"\n{how}", highlight=False, soft_wrap=True)
    return True
