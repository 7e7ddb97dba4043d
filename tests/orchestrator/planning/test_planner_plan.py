"""The plan of a study of which some trials are finished or interrupted."""

from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.context import RunContext, StopRequest
from orchestrator.planning.plan import StudyPlan
from orchestrator.planning.plan_table import show_plan
from orchestrator.planning.planner import Planner
from orchestrator.planning.reconcile import Decision
from orchestrator.scheduling.capacity import plan_placement
from orchestrator.storage import Storage
from orchestrator.study.trial_state import TrialState
from orchestrator.tracking.runs import TrialRun
from tests.support.planned_study import resolved, timed

FINISHED = Decision(TrialState.FINISHED, "leave", None)
MISSING = Decision(TrialState.MISSING, "train", None)


def plan_of(file: Path, *first: Decision, others: Decision, preflight: bool = True) -> StudyPlan:
    """Return the plan of a study on two CPUs. first: decisions for its first trials."""
    study, trials = resolved(file)
    context = RunContext(
        Storage.parse(str(file.parent)),
        None,
        Console(),
        file.parent / "log",
        StopRequest(),
        preflight=preflight,
    )
    nodes = [{"CPU": 2.0, "trial_driver": 9.0}]
    placement = plan_placement(study.config.resources, nodes)
    measured = [timed(trials[0], study)]
    planner = Planner(study, trials, placement, nodes, "device", measured, context)
    decisions = [*first, *[others] * (len(trials) - len(first))]
    by_name = {trial.name: each for trial, each in zip(trials, decisions, strict=True)}
    return planner.plan(by_name, lambda count: None)


def test_interrupted_trial_has_the_epochs_that_remain(file: Path) -> None:
    identity = resolved(file)[1][0].identity
    run = TrialRun("r", "planned", identity, "KILLED", "code", 9, {})
    interrupted = Decision(TrialState.INTERRUPTED, "resume", run)
    (file.parent / "trials" / f"{identity[:16]}-r" / "checkpoint_1").mkdir(parents=True)
    plan = plan_of(file, interrupted, others=FINISHED)
    assert plan.forecast.wall.value == pytest.approx(30 + 3 * 60 + 30)
    assert plan.lost_checkpoints == ""
    # The file has a price per GPU-hour, but trials run on CPUs.
    assert plan.forecast.cost is None


def test_trial_without_checkpoints_has_all_epochs(file: Path) -> None:
    identity = resolved(file)[1][0].identity
    run = TrialRun("r", "planned", identity, "KILLED", "code", 9, {})
    plan = plan_of(file, Decision(TrialState.INTERRUPTED, "resume", run), others=FINISHED)
    anew = plan_of(file, MISSING, others=FINISHED)
    assert plan.forecast.wall.value == anew.forecast.wall.value
    name = plan.forecast.trials[0].trial.name
    folder = file.parent / "trials"
    words = f"the checkpoints of {name!r} (epoch 9) are not in {folder}; it trains from the start"
    assert plan.lost_checkpoints == words
    console = Console(record=True, width=400)
    show_plan(plan, console)
    assert words in console.export_text()


def test_preflight_of_trained_experiments_takes_no_time(file: Path) -> None:
    file.write_text(file.read_text().replace("seeds: [0, 1]", "seeds: [0, 1, 2, 3, 4, 5, 6, 7]"))
    run = TrialRun("r", "planned", "", "FINISHED", "code", 10, {})
    done = Decision(TrialState.FINISHED, "leave", run)
    rows = [*[done] * 2, *[MISSING] * 6] * 3
    assert plan_of(file, *rows, others=MISSING).overhead.preflight == 0
    assert plan_of(file, others=MISSING).overhead.preflight > 0


@pytest.mark.parametrize("preflight", [True, False])
def test_preflight_takes_time_unless_it_is_skipped(file: Path, preflight: bool) -> None:
    file.write_text(file.read_text().replace("epochs: 10", "epochs: 1000"))
    plan = plan_of(file, others=MISSING, preflight=preflight)
    assert (plan.overhead.preflight > 0) == preflight


def test_finished_study_takes_no_time_and_no_disk(file: Path) -> None:
    plan = plan_of(file, others=FINISHED)
    assert plan.wall.value == 0
    assert plan.forecast.disk == 0
