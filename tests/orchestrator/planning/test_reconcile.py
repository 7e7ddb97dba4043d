"""The decision for a trial in each possible state."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.planning.reconcile import Decision, ReconcileOptions, decide, reconcile
from orchestrator.study.trial_state import TrialState
from orchestrator.tracking.runs import RunStatus, TrialRun
from tests.support.planned_study import resolved

STUDY, CODE = "table", "new"


def record(
    status: RunStatus,
    study: str = STUDY,
    code: str = CODE,
    active_elsewhere: bool = False,
    run_id: str = "run",
) -> TrialRun:
    return TrialRun(
        run_id, study, "identity", status, code, 3, {}, active_elsewhere=active_elsewhere
    )


def test_run_with_the_most_epochs_represents_an_interrupted_trial() -> None:
    """MLflow may create a run twice; both begin at the same moment."""
    trained, empty = (
        replace(record("KILLED"), run_id="a", epoch=120),
        replace(record("KILLED", code=""), run_id="b", epoch=0),
    )
    for runs in ([trained, empty], [empty, trained]):
        chosen = decide(runs, STUDY, CODE, ReconcileOptions())
        assert chosen.run is not None
        assert (chosen.run.run_id, chosen.action) == ("a", "resume")


def decision(*records: TrialRun, **options: bool) -> tuple[str, str]:
    result = decide(records, STUDY, CODE, ReconcileOptions(**options))
    return str(result.state), result.action


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], ("missing", "train")),
        ([record("FINISHED")], ("finished", "leave")),
        ([record("FINISHED", study="other")], ("finished", "link")),
        ([record("FINISHED", code="old")], ("stale", "leave")),
        ([record("FINISHED", code="new+old")], ("stale", "leave")),
        ([record("FINISHED", code="old", study="other")], ("stale", "link")),
        ([record("KILLED")], ("interrupted", "resume")),
        ([record("RUNNING")], ("interrupted", "resume")),  # its process is dead
        ([record("KILLED", code="old")], ("interrupted", "resume")),
        ([record("KILLED", code="")], ("missing", "train")),  # it never started
        ([record("FAILED")], ("failed", "leave")),
        ([record("FAILED", study="other")], ("missing", "train")),
        ([record("KILLED", study="other")], ("missing", "train")),
        ([record("RUNNING", study="other")], ("missing", "train")),  # its process is dead
        ([record("RUNNING", study="other", active_elsewhere=True)], ("training", "wait")),
        ([record("SCHEDULED", study="other", active_elsewhere=True)], ("waiting", "wait")),
        ([record("RUNNING", active_elsewhere=True)], ("training", "wait")),
        # Several runs of one training.
        (
            [record("FAILED"), record("RUNNING", study="other", active_elsewhere=True)],
            ("training", "wait"),
        ),
        ([record("FAILED"), record("FINISHED", study="other")], ("finished", "link")),
        ([record("FINISHED", code="old"), record("KILLED")], ("stale", "leave")),
        ([record("FINISHED"), record("FINISHED", code="old")], ("finished", "leave")),
        ([record("KILLED"), record("FAILED")], ("failed", "leave")),
        ([record("FAILED"), record("KILLED")], ("interrupted", "resume")),
    ],
)
def test_decision_for_each_state(records: list[TrialRun], expected: tuple[str, str]) -> None:
    assert decision(*records) == expected


@pytest.mark.parametrize("code", [CODE, ""])
def test_an_interrupted_run_has_the_same_state_everywhere(code: str) -> None:
    run = record("KILLED", code=code)
    assert decision(run)[0] == run.state


def test_failed_trials_are_retried_on_request() -> None:
    assert decision(record("FAILED"), retry_failed=True) == ("failed", "resume")
    assert decision(record("FAILED"), retrain_stale=True) == ("failed", "leave")


def test_trials_stopped_early_are_left_in_a_search_and_resumed_in_a_table() -> None:
    stopped = replace(record("KILLED"), stopped_early=True)
    assert decision(stopped, searching=True) == ("stopped early", "leave")
    assert decision(stopped) == ("interrupted", "resume")
    assert decision(record("KILLED"), searching=True) == ("interrupted", "resume")


def test_stale_trials_are_retrained_on_request() -> None:
    old = record("FINISHED", code="old")
    assert decide([old], STUDY, CODE, ReconcileOptions(retrain_stale=True)) == Decision(
        TrialState.STALE, "train", None
    )
    begun = record("KILLED", run_id="begun")
    chosen = decide([old, begun], STUDY, CODE, ReconcileOptions(retrain_stale=True))
    assert chosen == Decision(TrialState.INTERRUPTED, "resume", begun)
    working = record("RUNNING", study="other", active_elsewhere=True)
    assert decision(old, working, retrain_stale=True) == ("training", "wait")
    assert decision(old, record("FINISHED"), retrain_stale=True) == ("finished", "leave")


def test_latest_finished_run_of_the_study_is_used() -> None:
    runs = [
        record("FINISHED", run_id="first"),
        record("FINISHED", run_id="second"),
        record("FINISHED", run_id="third", study="other"),
    ]
    chosen = decide(runs, STUDY, CODE, ReconcileOptions()).run
    assert chosen is not None
    assert chosen.run_id == "second"


def test_finished_trials_are_not_trained_again_and_other_studies_are_not_touched() -> None:
    """Check every pair of runs with every combination of options."""
    statuses: tuple[RunStatus, ...] = ("SCHEDULED", "RUNNING", "FINISHED", "FAILED", "KILLED")
    runs = [
        record(status, study, code, active_elsewhere)
        for status in statuses
        for study in (STUDY, "other")
        for code in (CODE, "old")
        for active_elsewhere in ((False, True) if status in ("SCHEDULED", "RUNNING") else (False,))
    ]
    options = [ReconcileOptions(a, b) for a in (False, True) for b in (False, True)]
    for pair, choice in itertools.product(itertools.product(runs, runs), options):
        chosen = decide(pair, STUDY, CODE, choice)
        if any(run.status == "FINISHED" and run.code == CODE for run in pair):
            assert chosen.action in ("leave", "link")
        if any(run.active_elsewhere for run in pair):
            assert chosen.action not in ("train", "resume")
        if chosen.action == "resume":
            assert chosen.run is not None
            assert chosen.run.study == STUDY
            assert chosen.run.status != "FINISHED"
        if chosen.finished and chosen.action != "train":
            assert chosen.run is not None
            assert chosen.run.status == "FINISHED"


def test_trials_are_matched_with_runs_of_their_settings_and_code(file: Path) -> None:
    """Whatever their names: `first` has the settings of a row of another study."""
    study, (first, second, *others) = resolved(file)
    run = replace(record("FINISHED", study="other", code=first.code), identity=first.identity)
    older = replace(record("FINISHED", study=study.config.study, code="old"), run_id="older")
    found = reconcile(
        [first, second, *others],
        {first.identity: [run], second.identity: [older], first.name: [older]},
        study.config.study,
        ReconcileOptions(),
    )
    states = {name: (str(each.state), each.action) for name, each in found.items()}
    assert states.pop(first.name) == ("finished", "link")
    assert states.pop(second.name) == ("stale", "leave")
    assert states == {trial.name: ("missing", "train") for trial in others}
    assert (found[first.name].run, found[second.name].run) == (run, older)
