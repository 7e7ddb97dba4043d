"""A report that is refreshed while trials finish."""

import threading

from orchestrator.sweep.refresh import ReportRefresher


def test_frequent_requests_are_combined() -> None:
    refreshes = threading.Semaphore(0)
    refresher = ReportRefresher(refreshes.release)
    refresher.request()
    assert refreshes.acquire(timeout=60)
    for _ in range(1000):
        refresher.request()
    refresher.close()
    assert not refreshes.acquire(blocking=False)
