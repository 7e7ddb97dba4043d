"""What ends the evaluation of finished trials: a stop, and a limit while no machine is up."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from orchestrator.context import StopRequest
from orchestrator.evaluation import missing
from orchestrator.evaluation.scoring import EvaluationEndedError
from orchestrator.scheduling.budget import Budget
from orchestrator.storage import Storage
from orchestrator.study.config import Limits
from orchestrator.sweep import evaluate_trials


class Waiting:
    """An evaluation that waits until it is ended."""

    run_id = "run"
    failure = "not scored under flip"

    def __init__(self, name: str, limits_count: bool, wait: Callable[[], None]) -> None:
        self.trial = SimpleNamespace(name=name)
        self.limits_count = limits_count
        self.wait = wait

    def evaluate(self, model: Any, store: Any, bar: Any, stop_reason: Callable[[bool], str]) -> str:
        self.wait()
        if reason := stop_reason(self.limits_count):
            raise EvaluationEndedError(reason)
        return "scored"


@pytest.mark.parametrize(
    ("no_machine", "stops", "cause"),
    [
        (True, False, "limits.wall_hours: this command has run for its 1 h"),
        (False, False, None),
        (False, True, "stopped"),
    ],
)
def test_evaluation_ends_at_a_stop_or_at_a_limit_while_it_waits_for_machines(
    no_machine: bool,
    stops: bool,
    cause: str | None,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    budget = Budget(Limits(wall_hours=1), 1, clock=lambda: now[0])
    stop = StopRequest()
    loaded: list[str] = []

    def wait() -> None:
        now[0] += 7200
        stop.requested = stops

    entries = [Waiting(name, no_machine, wait) for name in ("first", "second")]
    monkeypatch.setattr(missing, "load_model", lambda uri, *_: loaded.append(uri))
    monkeypatch.setattr(evaluate_trials, "missing_scores", lambda *_: entries)
    for name in ("missing_submissions", "missing_latencies"):
        monkeypatch.setattr(evaluate_trials, name, lambda *_: ())
    study: Any = SimpleNamespace(config=SimpleNamespace(study="flows", imports=()))
    store: Any = SimpleNamespace(evaluations=None)
    context: Any = SimpleNamespace(
        storage=Storage.parse(str(tmp_path)), console=Console(quiet=True), stop=stop
    )
    failures = evaluate_trials.evaluate_finished(
        study, [], {}, store, context, budget, lambda: None
    )
    if cause is None:
        assert failures == {}
        assert budget.left_out_reason() is None
    else:
        assert failures.keys() == {"first", "second"}
        assert all(f"not scored under flip: {cause}" in each for each in failures.values())
        assert loaded == ["runs:/run/last"]  # the second one does not wait, too
        assert (budget.left_out_reason() is None) == stops
