"""When the autoscaler counts as stopped; tests/e2e/test_autoscaler.py stops a real one."""

from orchestrator.cluster.autoscaler_heartbeat import AutoscalerHeartbeat


def test_autoscaler_is_reported_when_its_rounds_stop() -> None:
    now, rounds = 0.0, [1]
    heartbeat = AutoscalerHeartbeat(lambda: rounds[-1], lambda: now)
    for _ in range(100):
        now += 5
        rounds.append(rounds[-1] + 1)
        assert heartbeat.message() == ""
    now += 119
    assert heartbeat.message() == ""
    now += 1
    assert "restart the head" in heartbeat.message()
    rounds.append(1)  # restarted
    assert heartbeat.message() == ""


def test_cluster_without_autoscaler_is_not_reported() -> None:
    now = 0.0
    heartbeat = AutoscalerHeartbeat(lambda: None, lambda: now)
    now = 1000
    assert heartbeat.message() == ""
