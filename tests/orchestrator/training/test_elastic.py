"""The number of workers of an elastic trial: single decisions of its scaling policy."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.train import ScalingConfig

from orchestrator.training.elastic import CheckpointObserver, ElasticScalingPolicy


class Trial:
    """A trial with two to four workers, an idle worker count, and the time since it started."""

    def __init__(self, may_use_idle: bool = False, interval: float = 60.0) -> None:
        scaling = ScalingConfig(
            num_workers=(2, 4),
            resources_per_worker={"CPU": 1},
            elastic_resize_monitor_interval_s=interval,
        )
        self.idle, self.seconds = 0, 0.0
        self.at_checkpoint = CheckpointObserver()
        self.policy = ElasticScalingPolicy(
            scaling,
            may_use_idle,
            self.at_checkpoint,
            count_idle=lambda worker: self.idle,
            clock=lambda: self.seconds,
        )
        self.requests: list[int] = []
        self.policy._maybe_send_resource_request = lambda: self.requests.append(  # type: ignore[method-assign]
            self.policy._get_num_workers_for_resource_request()
        )

    def workers_at_start(self) -> int:
        return int(self.policy.make_decision_for_non_running_worker_group().num_workers)

    def workers_after_report(self, workers: int, checkpoint: bool = True) -> int:
        self.at_checkpoint.after_report(None, [{}], "a checkpoint" if checkpoint else None)  # type: ignore[arg-type]
        state: Any = SimpleNamespace(start_time=0.0, num_workers=workers)
        decision = self.policy.make_decision_for_running_worker_group(state, None)  # type: ignore[arg-type]
        return int(getattr(decision, "num_workers", workers))


@pytest.mark.parametrize(("idle", "workers"), [(0, 2), (1, 2), (3, 3), (9, 4)])
def test_trial_starts_with_idle_workers_if_allowed(idle: int, workers: int) -> None:
    trial = Trial(may_use_idle=True)
    trial.idle = idle
    assert trial.workers_at_start() == workers  # the minimum, and a wait, if there is too little


def test_trial_starts_with_the_minimum_if_others_wait() -> None:
    trial = Trial()
    trial.idle = 9
    assert trial.workers_at_start() == 2


def test_only_the_minimum_is_requested_from_the_cluster() -> None:
    trial = Trial(may_use_idle=True)
    trial.idle = 9
    trial.workers_at_start()
    trial.workers_after_report(2)
    assert trial.requests == [2, 2]


def test_trial_grows_only_at_a_checkpoint_after_the_interval() -> None:
    trial = Trial()
    trial.idle, trial.seconds = 1, 59.0
    assert trial.workers_after_report(2) == 2
    trial.seconds = 61.0
    assert trial.workers_after_report(2, checkpoint=False) == 2
    assert trial.workers_after_report(2) == 3
    trial.idle = 9
    assert trial.workers_after_report(3) == 4
    assert trial.workers_after_report(4) == 4
    trial.idle = 0
    assert trial.workers_after_report(3) == 3
