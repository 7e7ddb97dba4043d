"""How many workers a trial with a range of them gets: Ray Train's decisions, one at a time."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.train import ScalingConfig

from orchestrator.training.elastic import CheckpointObserver, ElasticScalingPolicy


class Trial:
    """A trial with two to four workers, the room beside it, and the time since it started."""

    def __init__(self, may_use_idle: bool = False, pause: float = 60.0) -> None:
        scaling = ScalingConfig(
            num_workers=(2, 4),
            resources_per_worker={"CPU": 1},
            elastic_resize_monitor_interval_s=pause,
        )
        self.room, self.seconds = 0, 0.0
        self.at_checkpoint = CheckpointObserver()
        self.policy = ElasticScalingPolicy(
            scaling,
            may_use_idle,
            self.at_checkpoint,
            count_idle=lambda worker: self.room,
            clock=lambda: self.seconds,
        )
        self.requests: list[int] = []
        self.policy._maybe_send_resource_request = lambda: self.requests.append(  # type: ignore[method-assign]
            self.policy._get_num_workers_for_resource_request()
        )

    def starts_with(self) -> int:
        return int(self.policy.make_decision_for_non_running_worker_group().num_workers)

    def goes_on_with(self, workers: int, checkpoint: bool = True) -> int:
        self.at_checkpoint.after_report(None, [{}], "a checkpoint" if checkpoint else None)  # type: ignore[arg-type]
        state: Any = SimpleNamespace(start_time=0.0, num_workers=workers)
        decision = self.policy.make_decision_for_running_worker_group(state, None)  # type: ignore[arg-type]
        return int(getattr(decision, "num_workers", workers))


@pytest.mark.parametrize(("room", "workers"), [(0, 2), (1, 2), (3, 3), (9, 4)])
def test_a_trial_for_which_nobody_waits_starts_with_the_room_there_is(
    room: int, workers: int
) -> None:
    trial = Trial(may_use_idle=True)
    trial.room = room
    assert trial.starts_with() == workers  # the fewest, and a wait, where there is too little


def test_others_wait_for_the_room() -> None:
    trial = Trial()
    trial.room = 9
    assert trial.starts_with() == 2


def test_machines_are_asked_for_the_fewest_only() -> None:
    trial = Trial(may_use_idle=True)
    trial.room = 9
    trial.starts_with()
    trial.goes_on_with(2)
    assert trial.requests == [2, 2]


def test_it_grows_at_a_checkpoint_and_not_at_once() -> None:
    trial = Trial()
    trial.room, trial.seconds = 1, 59.0
    assert trial.goes_on_with(2) == 2
    trial.seconds = 61.0
    assert trial.goes_on_with(2, checkpoint=False) == 2
    assert trial.goes_on_with(2) == 3
    trial.room = 9
    assert trial.goes_on_with(3) == 4
    assert trial.goes_on_with(4) == 4
    trial.room = 0
    assert trial.goes_on_with(3) == 3
