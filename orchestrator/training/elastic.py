"""How many workers a trial with a range of them gets, and when it gets more.

The fewest are what is asked for and waited for, so that the policy's gangs hold and the autoscaler
starts no machine for more. Beyond them a trial takes what lies idle, which nobody waits for.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ray.train import Checkpoint, ScalingConfig, UserCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.scaling_policy import (
    FixedScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)
from ray.train.v2._internal.execution.worker_group import WorkerGroupPollStatus, WorkerGroupState
from ray.train.v2._internal.util import time_monotonic
from ray.util import placement_group_table

from orchestrator.cluster.nodes import free_nodes
from orchestrator.scheduling.policy import workers_that_fit


def idle_workers(worker: Mapping[str, float]) -> int:
    """How many such workers the connected cluster could start now, beside what runs on it; 0 while
    any gang waits for its place."""
    groups: Mapping[str, Mapping[str, Any]] = placement_group_table()
    if any(group["state"] in ("PENDING", "RESCHEDULING") for group in groups.values()):
        return 0
    return workers_that_fit(worker, free_nodes())


class CheckpointObserver(UserCallback):
    """Knows whether the last report of a training came with a checkpoint, so that nothing is lost
    by starting anew from it."""

    def __init__(self) -> None:
        self._fresh = False

    def after_report(
        self,
        run_context: TrainRunContext,
        metrics: list[dict[str, Any]],
        checkpoint: Checkpoint | None,
    ) -> None:
        """Every worker has reported, and the checkpoint lies in the storage."""
        self._fresh = checkpoint is not None

    def take(self) -> bool:
        """Whether there was one since this was last asked."""
        fresh, self._fresh = self._fresh, False
        return fresh


class ElasticScalingPolicy(FixedScalingPolicy):
    """Ray Train's decisions for `ScalingConfig(num_workers=(low, high))`.

    Ray's own elastic policy shares a cluster out by who asks first, and would have the autoscaler
    start machines for `high`. Here growing, which restarts the workers from their last checkpoint,
    is done just after one, and no more often than `elastic_resize_monitor_interval_s`.
    """

    def __init__(
        self,
        scaling: ScalingConfig,
        may_use_idle: bool,
        at_checkpoint: CheckpointObserver,
        room: Callable[[Mapping[str, float]], int] = idle_workers,
        clock: Callable[[], float] = time_monotonic,
    ) -> None:
        """takes_all: whether it starts with what lies idle, because no other trial waits for it;
        with the fewest otherwise. room: says how many further workers there is room for."""
        super().__init__(scaling)
        self._takes_all = may_use_idle
        self._at_checkpoint = at_checkpoint
        self._room = room
        self._clock = clock

    def _get_num_workers_for_resource_request(self) -> int:
        return int(self.scaling_config.min_workers)

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """How many to start with."""
        self._maybe_send_resource_request()
        fewest = int(self.scaling_config.min_workers)
        return self._resized(self._most_beside(0) if self._takes_all else fewest)

    def make_decision_for_running_worker_group(
        self, worker_group_state: WorkerGroupState, worker_group_status: WorkerGroupPollStatus
    ) -> ScalingDecision:
        """Whether to go on with more."""
        self._maybe_send_resource_request()
        pause = self.scaling_config.elastic_resize_monitor_interval_s
        if self._clock() - worker_group_state.start_time < pause or not self._at_checkpoint.take():
            return NoopDecision()
        now = int(worker_group_state.num_workers)
        workers = self._most_beside(now) if now < self.scaling_config.max_workers else now
        return self._resized(workers) if workers > now else NoopDecision()

    def _most_beside(self, now: int) -> int:
        """The workers there may be, where `now` of them are at work."""
        room = now + self._room(self.scaling_config._resources_per_worker_not_none)
        most = min(room, int(self.scaling_config.max_workers))
        return max(most, int(self.scaling_config.min_workers))

    def _resized(self, workers: int) -> ScalingDecision:
        return ResizeDecision(workers, self.scaling_config._resources_per_worker_not_none)
