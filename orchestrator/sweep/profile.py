"""A study of `kind: profile`: parameters and multiply-adds of its cells beside the published ones.

Nothing is trained, and no data set is needed.
"""

from orchestrator.context import Setting
from orchestrator.report.study_report import StudyReport
from orchestrator.study.model_cost import profile_costs
from orchestrator.study.study import Plan
from orchestrator.tracking.store import open_store
from orchestrator.tracking.study_run import StudyRun


def run_profile(plan: Plan, setting: Setting, plan_only: bool = False) -> bool:
    """Print the profile, and keep that of the whole study with its run in the ledger, unless
    `plan_only`. Raises StudyError where a row names a part that its network does not have, and
    LedgerError."""
    costs = profile_costs(plan)
    ledger = open_store(setting.storage)
    StudyReport(plan, ledger, costs=costs).read().print(setting.console)
    if plan_only:
        return True
    study_run = StudyRun.open(ledger, plan)
    study_run.note_command(setting.command)
    finished = False
    try:
        if study_run.page.is_own:
            whole = StudyReport(plan.whole, ledger, costs=profile_costs(plan.whole))
            whole.keep(whole.documents(whole.read()))
        else:
            say = study_run.page.note
            setting.console.print(
                say, style="yellow", markup=False, highlight=False, soft_wrap=True
            )
        finished = True
    finally:
        study_run.close("FINISHED" if finished else "FAILED")
    how = ledger.how_to_look(study_run.experiment_id)
    setting.console.print(f"\n{how}", highlight=False, soft_wrap=True)
    return True
