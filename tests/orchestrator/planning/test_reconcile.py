"""What is done about a trial, over all states it can be in."""

import itertools

import pytest

from orchestrator.planning.reconcile import Decision, ReconcileOptions, decide
from orchestrator.study.trial_state import TrialState
from orchestrator.tracking.runs import RunStatus, TrialRun

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


def decision(*records: TrialRun, **options: bool) -> tuple[str, str]:
    found = decide(records, STUDY, CODE, ReconcileOptions(**options))
    return str(found.state), found.action


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
def test_every_state(records: list[TrialRun], expected: tuple[str, str]) -> None:
    assert decision(*records) == expected


def test_failed_trials_are_retried_when_asked() -> None:
    assert decision(record("FAILED"), retry_failed=True) == ("failed", "resume")
    assert decision(record("FAILED"), retrain_stale=True) == ("failed", "leave")


def test_stale_trials_are_trained_anew_when_asked() -> None:
    old = record("FINISHED", code="old")
    assert decide([old], STUDY, CODE, ReconcileOptions(retrain_stale=True)) == Decision(
        TrialState.STALE, "train", None
    )
    begun = record("KILLED", run_id="begun")
    found = decide([old, begun], STUDY, CODE, ReconcileOptions(retrain_stale=True))
    assert found == Decision(TrialState.INTERRUPTED, "resume", begun)
    working = record("RUNNING", study="other", active_elsewhere=True)
    assert decision(old, working, retrain_stale=True) == ("training", "wait")
    assert decision(old, record("FINISHED"), retrain_stale=True) == ("finished", "leave")


def test_of_several_finished_runs_the_study_s_own_latest_counts() -> None:
    runs = [
        record("FINISHED", run_id="first"),
        record("FINISHED", run_id="second"),
        record("FINISHED", run_id="third", study="other"),
    ]
    found = decide(runs, STUDY, CODE, ReconcileOptions()).run
    assert found is not None
    assert found.run_id == "second"


def test_nothing_finished_is_trained_and_nothing_of_others_is_touched() -> None:
    """Over all pairs of runs and all wishes, whatever the case."""
    statuses: tuple[RunStatus, ...] = ("SCHEDULED", "RUNNING", "FINISHED", "FAILED", "KILLED")
    runs = [
        record(status, study, code, active_elsewhere)
        for status in statuses
        for study in (STUDY, "other")
        for code in (CODE, "old")
        for active_elsewhere in ((False, True) if status in ("SCHEDULED", "RUNNING") else (False,))
    ]
    options = [ReconcileOptions(a, b) for a in (False, True) for b in (False, True)]
    for pair, wish in itertools.product(itertools.product(runs, runs), options):
        found = decide(pair, STUDY, CODE, wish)
        if any(run.status == "FINISHED" and run.code == CODE for run in pair):
            assert found.action in ("leave", "link")
        if any(run.active_elsewhere for run in pair):
            assert found.action not in ("train", "resume")
        if found.action == "resume":
            assert found.run is not None
            assert found.run.study == STUDY
            assert found.run.status != "FINISHED"
        if found.finished and found.action != "train":
            assert found.run is not None
            assert found.run.status == "FINISHED"
