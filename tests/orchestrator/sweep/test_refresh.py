"""A report that is refreshed while trials finish."""

import threading
import time

import pytest

from orchestrator.sweep import refresh
from orchestrator.sweep.refresh import ReportRefresher


def test_frequent_requests_are_combined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh, "_DELAY_SECONDS", 0.1)
    monkeypatch.setattr(refresh, "_PAUSE_FACTOR", 1e9)
    refreshes = threading.Semaphore(0)
    refresher = ReportRefresher(refreshes.release)
    refresher.request()
    assert refreshes.acquire(timeout=60)
    for _ in range(1000):
        refresher.request()
    refresher.close()
    assert not refreshes.acquire(blocking=False)


def test_the_last_request_is_left_to_the_command() -> None:
    refreshes = threading.Semaphore(0)
    refresher = ReportRefresher(refreshes.release)
    refresher.request()
    time.sleep(0.2)  # the thread has noticed it
    refresher.close()
    assert not refreshes.acquire(blocking=False)
