"""A study of `kind: profile`: parameters and multiply-adds of its cells beside the published ones.

Nothing is trained, and no data set is needed.
"""

from models import FENetConfig, count_parameters
from models.cost import multiply_adds_by_part, on_meta, parts
from orchestrator.cells import ModelCost
from orchestrator.ledger import Ledger, StudyRun
from orchestrator.report.study_report import StudyReport
from orchestrator.setting import Setting
from orchestrator.source import Place, Problem, StudyError
from orchestrator.study import Plan, ProfileOptions, Trial
from orchestrator.validation import suggestion
from pipelines.network import build_network


def run_profile(plan: Plan, setting: Setting, plan_only: bool = False) -> bool:
    """Print the profile, and keep that of the whole study with its run in the ledger, unless
    `plan_only`. Raises StudyError where a row names a part that its network does not have, and
    LedgerError."""
    costs = profile_costs(plan)
    ledger = Ledger(setting.tracking_uri, setting.artifacts)
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


def profile_costs(plan: Plan) -> dict[str, ModelCost]:
    """The cost of each cell's network, or of the part that its row names, by the trial's name;
    nothing for a study of another kind. Raises StudyError where there is no such part."""
    if plan.study.kind != "profile":
        return {}
    options = plan.study.profile or ProfileOptions()
    variants = plan.study.variants
    return {
        trial.name: _cost(trial, variants[trial.variant].part, options) for trial in plan.trials
    }


def _cost(trial: Trial, part: str | None, options: ProfileOptions) -> ModelCost:
    config = trial.experiment.model
    if isinstance(config, FENetConfig):
        model = on_meta(config, options.classes)
    else:
        model = on_meta(build_network(config, options.classes, seed=0), options.classes)
    by_part = multiply_adds_by_part(model, options.classes, *options.size)
    if part is None:
        total = sum(by_part.values())
        return ModelCost(count_parameters(model) / 1e6, total / 1e9, options.size)
    there = parts(model)
    if part not in there:
        message = f"{part!r} is no part of this network; {suggestion(part, list(there))}"
        raise StudyError([Problem(Place(f"variants.{trial.variant}.part"), message)])
    return ModelCost(count_parameters(there[part]) / 1e6, by_part[part] / 1e9, options.size)
