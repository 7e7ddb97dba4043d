"""Queries of the tracking store."""

from dataclasses import replace

from orchestrator.study.load import load_study
from orchestrator.study.sampling import SearchSample
from orchestrator.tracking import tags as tag
from orchestrator.tracking.queries import (
    StoreSnapshot,
    find_parents,
    parent_run_id,
    read_snapshot,
    recorded_samples,
)
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


RATE = "training.learning_rate"
RUN = TrialRun("run", "tune", "identity", "FINISHED", "code", 3, {})


def sampled(number: int, rate: float, variant: str = "a", study: str = "tune") -> TrialRun:
    """Return a run of a sample of a search."""
    return replace(RUN, study=study, variant=variant, sample=SearchSample(number, {RATE: rate}))


def test_recorded_samples_are_those_that_the_search_may_have_drawn_by_scores() -> None:
    study = load_study(
        {
            "study": "tune",
            "kind": "search",
            "variants": {"a": {}, "b": {"set": {"model": {"flows": []}}}},
            "sample": {RATE: {"log": [1e-4, 1]}},
            "samples": {"count": 7, "method": "tpe", "startup": 3},
        }
    )
    other_key = replace(RUN, variant="a", sample=SearchSample(5, {RATE: 0.5, "training.power": 1}))
    runs = [
        sampled(6, 0.6),
        sampled(2, 0.2),  # drawn at random
        sampled(3, 0.3, study="another"),
        sampled(3, 0.03),
        sampled(3, 0.7),  # drawn by another command at the same time
        sampled(4, 2.0),  # out of the range
        sampled(7, 0.7),  # more than `count`
        other_key,
        sampled(3, 0.5, "b"),
        RUN,
    ]
    assert recorded_samples(study, runs) == {
        ("a",): [SearchSample(3, {RATE: 0.03}), SearchSample(6, {RATE: 0.6})],
        ("b",): [SearchSample(3, {RATE: 0.5})],
    }


def test_only_finished_trials_have_timings() -> None:
    failed = replace(RUN, status="FAILED", measurement="failed")
    runs = [RUN, failed, replace(RUN, measurement="timed")]
    assert StoreSnapshot(runs, ()).measurements == ["timed"]
