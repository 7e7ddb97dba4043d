"""The wait for trials that other studies are training."""

from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.context import StopRequest
from orchestrator.scheduling.budget import Budget
from orchestrator.study.config import Limits
from orchestrator.sweep import waiting


def test_wait_for_the_trial_of_another_study_ends_at_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decisions: Any = {"one": SimpleNamespace(action="wait", run=None)}
    monkeypatch.setattr(waiting, "_POLL_SECONDS", 0.0)
    budget, stop = Budget(Limits(), 1), StopRequest()
    polls: list[None] = []

    def decide() -> Any:
        assert stop.graceful
        polls.append(None)
        if len(polls) == 3:
            budget.pause("a limit")
        return decisions

    waiting.wait_for_others(decisions, decide, budget, stop, print)
    assert len(polls) == 3
    assert not stop.graceful
