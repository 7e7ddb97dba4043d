"""Decides how many workers an elastic trial gets, and when it gets more.

A trial requests only its minimum, so that it matches the gang that `scheduling.policy` placed, and
the autoscaler starts no node for more. Beyond the minimum it uses idle resources only.
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
    """Return how many more workers with these resources the connected cluster could start now; 0
    while any placement group is pending."""
    groups: Mapping[str, Mapping[str, Any]] = placement_group_table()
    if any(group["state"] in ("PENDING", "RESCHEDULING") for group in groups.values()):
        return 0
    return workers_that_fit(worker, free_nodes())


class CheckpointObserver(UserCallback):
    """Observes when a checkpoint is stored: a restart from it then repeats no work."""

    def __init__(self) -> None:
        self._new = False

    def after_report(
        self,
        run_context: TrainRunContext,
        metrics: list[dict[str, Any]],
        checkpoint: Checkpoint | None,
    ) -> None:
        """Called when every worker has reported, and the checkpoint is in the storage."""
        self._new = checkpoint is not None

    def saw_new_checkpoint(self) -> bool:
        """Whether the last report had a checkpoint and this was not called since."""
        new, self._new = self._new, False
        return new


class ElasticScalingPolicy(FixedScalingPolicy):
    """Ray Train's scaling decisions for `ScalingConfig(num_workers=(low, high))`.

    Ray's own elastic policy grants resources first come, first served, and makes the autoscaler
    start nodes for `high` workers. This one uses idle resources only. Adding workers restarts all
    of them from the last checkpoint, so it is done right after one, and at most every
    `elastic_resize_monitor_interval_s` seconds.
    """

    def __init__(
        self,
        scaling: ScalingConfig,
        may_use_idle: bool,
        checkpoints: CheckpointObserver,
        count_idle: Callable[[Mapping[str, float]], int] = idle_workers,
        clock: Callable[[], float] = time_monotonic,
    ) -> None:
        """may_use_idle: whether to start with all idle resources, because no other trial waits for
            them; otherwise the trial starts with the minimum.
        count_idle: returns how many more workers the idle resources allow.
        """
        super().__init__(scaling)
        self._may_use_idle = may_use_idle
        self._checkpoints = checkpoints
        self._count_idle = count_idle
        self._clock = clock

    def _get_num_workers_for_resource_request(self) -> int:
        return int(self.scaling_config.min_workers)

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Decide the number of workers to start with."""
        self._maybe_send_resource_request()
        minimum = int(self.scaling_config.min_workers)
        return self._resize_to(self._possible_workers(0) if self._may_use_idle else minimum)

    def make_decision_for_running_worker_group(
        self, worker_group_state: WorkerGroupState, worker_group_status: WorkerGroupPollStatus
    ) -> ScalingDecision:
        """Decide whether to restart with more workers."""
        self._maybe_send_resource_request()
        interval = self.scaling_config.elastic_resize_monitor_interval_s
        too_early = self._clock() - worker_group_state.start_time < interval
        if too_early or not self._checkpoints.saw_new_checkpoint():
            return NoopDecision()
        current = int(worker_group_state.num_workers)
        if current >= self.scaling_config.max_workers:
            return NoopDecision()
        workers = self._possible_workers(current)
        return self._resize_to(workers) if workers > current else NoopDecision()

    def _possible_workers(self, current: int) -> int:
        """Return the number of workers that the resources allow, `current` of which are running."""
        idle = self._count_idle(self.scaling_config._resources_per_worker_not_none)
        most = min(current + idle, int(self.scaling_config.max_workers))
        return max(most, int(self.scaling_config.min_workers))

    def _resize_to(self, workers: int) -> ScalingDecision:
        return ResizeDecision(workers, self.scaling_config._resources_per_worker_not_none)
