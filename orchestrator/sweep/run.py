"""Running a study: from what its file asks for and what the ledger holds to a plan, or to a true
table."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.cluster.cluster import Cluster
from orchestrator.context import Setting
from orchestrator.evaluation.trained_model import local_weights
from orchestrator.planning.planner import Outlook
from orchestrator.planning.reconcile import Wishes, reconcile
from orchestrator.scheduling.capacity import plan_gang
from orchestrator.study.resolve import Cell, check_submission, resolve_cells
from orchestrator.study.study import Plan
from orchestrator.study.user_code import modules_of, runtime_environment
from orchestrator.tracking.store import Ledger, open_store

if TYPE_CHECKING:
    from orchestrator.report.study_report import StudyReport


def run_study(
    plan: Plan, setting: Setting, wishes: Wishes | None = None, plan_only: bool = False
) -> bool:
    """Train what is not finished and print the table; returns whether all trials are finished.

    wishes: what is trained besides what is missing or was interrupted.
    plan_only: show the trials and their standing, and train nothing.

    Raises DatasetError, capacity.CapacityError or ledger.LedgerError before anything is trained.
    """
    if plan.study.kind == "profile":
        from orchestrator.sweep.profile import run_profile  # with the report and its charts

        return run_profile(plan, setting, plan_only)
    wishes = replace(wishes or Wishes(), searching=plan.study.kind == "search")
    modules = {
        module.__name__: module
        for trial in plan.trials
        for module in modules_of(trial.experiment, plan.study.imports)
    }
    cluster = Cluster(setting.address, runtime_environment(modules))
    try:
        resources = plan.study.resources
        nodes, kinds = cluster.offers(resources)
        gang = plan_gang(resources, nodes, kinds)
        setting.console.print(
            "opening the data; the embedded set is made on first use", style="dim"
        )
        cells = resolve_cells(
            plan.trials,
            gang.device,
            setting.storage.at("datasets"),
            plan.study.imports,
            partial(local_weights, storage=setting.storage),
        )
        check_submission(plan, cells)
        ledger = open_store(setting.storage)
        device = cluster.device(resources, gang)
        outlook = Outlook(plan, cells, gang, nodes, device, ledger, setting)
        if plan_only:
            records = ledger.records(cell.identity for cell in cells)
            decisions = reconcile(cells, records, plan.study.study, wishes)
            # Beside trials at work the times would not be true, and there may be no room.
            alone = all(decision.action != "wait" for decision in decisions.values())
            will_train = any(decision.will_train for decision in decisions.values())
            if outlook.probe_would_help and alone and will_train:
                from orchestrator.preflight.preflight import (
                    Rehearsals,  # Ray takes seconds to import
                )

                cluster.start()
                Rehearsals(plan, cells, gang, setting, outlook).probe()
            outlook.show(decisions, partial(cluster.machines_asked_for, gang))
            return True
        from orchestrator.sweep.controller import Course  # Ray takes seconds to import

        report = study_report(plan, ledger, cells)
        return Course(plan, setting, wishes, gang, cells, ledger, cluster, outlook, report).run()
    finally:
        cluster.close()


def study_report(plan: Plan, ledger: Ledger, cells: list[Cell]) -> "StudyReport":
    """The report of the whole study. cells: those of `plan`; what `--only` leaves out of it is told
    from the ledger alone, because its data may not be here."""
    from orchestrator.report.study_report import StudyReport  # with its charts

    if not plan.is_partial:
        return StudyReport.of_cells(plan, ledger, cells)
    costs = {cell.trial.name: cell.cost for cell in cells}
    return StudyReport(plan.whole, ledger, costs=costs)
