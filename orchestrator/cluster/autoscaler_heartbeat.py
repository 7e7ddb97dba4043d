"""Detects that Ray's autoscaler has stopped: Ray restarts it only with the head."""

import time
from collections.abc import Callable

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

from orchestrator.cluster.autoscaler import read_bootstrap_config

_SILENT_SECONDS = 120.0  # the autoscaler works every 5 s; a request to the cloud may take a minute


def autoscaler_round() -> int | None:
    """Return a number that changes in each round of the connected cluster's autoscaler; None if the
    cluster does not grow, or has not answered."""
    if not ray.is_initialized() or read_bootstrap_config() is None:
        return None
    reply = GetClusterStatusReply()
    try:
        client = GcsClient(ray.get_runtime_context().gcs_address)
        reply.ParseFromString(client.get_cluster_status(timeout_s=5))
    except Exception:  # the head's restart is noticed elsewhere
        return None
    if not reply.HasField("autoscaling_state"):
        return None
    return int(reply.autoscaling_state.last_seen_cluster_resource_state_version)


class AutoscalerHeartbeat:
    """Watches the autoscaler's rounds. clock: returns seconds."""

    def __init__(
        self,
        read: Callable[[], int | None] = autoscaler_round,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read, self._clock = read, clock
        self._last: int | None = None
        self._since = clock()

    def message(self) -> str:
        """Return a warning if the autoscaler has been silent for two minutes, otherwise an empty
        text."""
        current, now = self._read(), self._clock()
        if current is None or current != self._last:
            self._last, self._since = current, now
        if now - self._since < _SILENT_SECONDS:
            return ""
        return (
            "Ray's autoscaler has stopped, so no machines are started, and idle ones end only by "
            "themselves after 30 minutes; restart the head (`ray up cluster.yaml`), then the study"
        )
