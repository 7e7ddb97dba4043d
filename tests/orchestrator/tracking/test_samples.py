"""The samples of a search as its runs record them."""

from dataclasses import replace

from orchestrator.study.load import load_study
from orchestrator.study.sampling import SearchSample
from orchestrator.tracking.runs import TrialRun
from orchestrator.tracking.samples import recorded_samples

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
