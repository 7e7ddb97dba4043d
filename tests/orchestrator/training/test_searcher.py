"""Which trial is started next, and when a study ends, without Ray."""

from ray.tune.search import Searcher

from orchestrator.scheduling.policy import GangShape, Waiting
from orchestrator.training.searcher import GangSearcher

ONE_CPU = GangShape.of(1, {"CPU": 1.0})


class Study:
    """A searcher over trials of one CPU on one node, with a limit on the trials to start."""

    def __init__(self, trials: int, cpus: float, limit: int = 100) -> None:
        self.trials = [Waiting(str(index), ONE_CPU, 1.0) for index in range(trials)]
        self.searcher = GangSearcher(
            self.trials,
            lambda: [{"CPU": self.cpus}],
            None,
            lambda started: started >= limit,
            lambda: self.ending,
            lambda: 10.0 * self.started,
        )
        self.cpus = cpus
        self.ending = False
        self.started = 0

    def start(self) -> dict[str, object] | str | None:
        self.started += 1
        return self.searcher.suggest(f"trial-{self.started}")


def test_study_ends_only_after_the_last_trial_because_it_may_be_retried() -> None:
    study = Study(trials=1, cpus=2.0)
    assert study.start() == {"job": 0, "attempt": 0, "last": True}
    assert study.start() is None
    study.searcher.retry(study.trials[0])
    study.searcher.on_trial_complete("trial-1", error=True)
    assert study.start() == {"job": 0, "attempt": 1, "last": True}
    study.searcher.on_trial_complete("trial-3")
    assert study.start() == Searcher.FINISHED


def test_retried_trial_starts_first_and_in_spite_of_a_limit() -> None:
    study = Study(trials=3, cpus=1.0, limit=2)
    assert study.start() == {"job": 0, "attempt": 0, "last": False}
    study.searcher.on_trial_complete("trial-1")
    study.searcher.retry(study.trials[0])
    assert study.start() == {"job": 0, "attempt": 1, "last": False}
    study.searcher.on_trial_complete("trial-2")
    assert study.start() == {"job": 1, "attempt": 0, "last": False}
    study.searcher.retry(study.trials[1])
    study.searcher.on_trial_complete("trial-3")
    assert study.start() == {"job": 1, "attempt": 1, "last": False}
    study.searcher.on_trial_complete("trial-4")
    assert study.start() == Searcher.FINISHED  # the third trial is beyond the limit


def test_retry_that_waits_for_a_machine_ends_with_the_study() -> None:
    study = Study(trials=1, cpus=1.0)
    assert study.start() == {"job": 0, "attempt": 0, "last": True}
    study.cpus = 0.0  # its machine is lost
    study.searcher.retry(study.trials[0])
    study.searcher.on_trial_complete("trial-1", error=True)
    assert study.start() is None
    study.ending = True
    assert study.start() == Searcher.FINISHED
