"""Queries of the tracking store."""

from dataclasses import replace

from orchestrator.tracking import tags as tag
from orchestrator.tracking.queries import StoreSnapshot, find_parents, parent_run_id, read_snapshot
from orchestrator.tracking.runs import TrialRun
from orchestrator.tracking.store import TrackingStore
from orchestrator.tracking.study_run import StudyRun


def test_oldest_of_two_runs_is_the_study(study_run: StudyRun, store: TrackingStore) -> None:
    """Two processes may create one each when they start the same study."""
    parent = store.client.get_run(study_run.parent_id)
    later = store.client.create_run(
        parent.info.experiment_id, parent.info.start_time + 1000, {tag.KIND: "study"}
    )
    parents = [run.info.run_id for run in find_parents(store, parent.info.experiment_id)]
    assert parents == [study_run.parent_id, later.info.run_id]
    assert parent_run_id(store, "tracking test") == study_run.parent_id
    assert [each.parent_id for each in read_snapshot(store).studies] == [study_run.parent_id]


RUN = TrialRun("run", "tune", "identity", "FINISHED", "code", 3, {})


def test_only_finished_trials_have_timings() -> None:
    failed = replace(RUN, status="FAILED", measurement="failed")
    runs = [RUN, failed, replace(RUN, measurement="timed")]
    assert StoreSnapshot(runs, ()).measurements == ["timed"]
