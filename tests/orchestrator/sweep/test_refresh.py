"""A report that is refreshed while trials finish."""

import threading

from orchestrator.sweep.refresh import ReportRefresher


def test_what_is_asked_for_often_is_done_seldom() -> None:
    done = threading.Semaphore(0)
    refresher = ReportRefresher(done.release)
    refresher.request()
    assert done.acquire(timeout=60)
    for _ in range(1000):
        refresher.request()
    refresher.close()
    assert not done.acquire(blocking=False)
