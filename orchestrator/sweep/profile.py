"""Studies of `kind: profile`: parameters and multiply-adds of the trials next to published values.

They train nothing and need no data set.
"""

from functools import partial

from orchestrator.console import say
from orchestrator.context import RunContext
from orchestrator.report.study_report import StudyReport
from orchestrator.study.profile_costs import profile_costs
from orchestrator.study.study import Study
from orchestrator.tracking.open_store import open_store
from orchestrator.tracking.queries import find_experiment
from orchestrator.tracking.study_run import StudyRun


def open_profile(study: Study, context: RunContext) -> StudyReport:
    """Return the profile of a study. Raises StudyError and TrackingError, as `run_profile`."""
    costs = profile_costs(study)
    store = open_store(context.storage)
    find_experiment(store, study.config.study)  # raises if another program made it
    return StudyReport(study, store, costs=costs)


def run_profile(study: Study, context: RunContext, plan_only: bool = False) -> bool:
    """Print the profile and, unless `plan_only`, store the profile of the whole study with its run.

    Raises StudyError if a row names a part that its network does not have, and TrackingError.
    """
    profile = open_profile(study, context)
    store = profile.store
    profile.read().print(context.console)
    if plan_only:
        return True
    study_run = StudyRun.open(store, study, say=partial(say, context.console))
    study_run.record_command(context.command)
    finished = False
    try:
        if study_run.page.is_own:
            whole = StudyReport(study.whole, store, costs=profile_costs(study.whole))
            report = whole.read()
            study_run.describe(report.markdown())
            whole.keep(whole.documents(report))
        else:
            say(context.console, study_run.page.note, style="yellow")
        finished = True
    finally:
        study_run.close("FINISHED" if finished else "FAILED")
    instructions = store.viewing_instructions(study_run.experiment_id, study_run.parent_id)
    say(context.console, f"\n{instructions}")
    return True
