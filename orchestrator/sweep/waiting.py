"""Waits for trials that other studies are training."""

import time
from collections.abc import Callable, Mapping

from orchestrator.context import StopRequest
from orchestrator.planning.reconcile import Decision
from orchestrator.scheduling.budget import Budget

_POLL_SECONDS = 5.0


def wait_for_others(
    decisions: Mapping[str, Decision],
    decide: Callable[[], Mapping[str, Decision]],
    budget: Budget,
    stop: StopRequest,
    say: Callable[[str], None],
) -> None:
    """Wait until a trial that another process is training changes its state, a limit is reached, or
    the user requests a stop.

    decisions: by trial name. decide: returns the current ones. say: prints a message.
    """
    waiting = {name for name, entry in decisions.items() if entry.action == "wait"}
    for name in sorted(waiting):
        run = decisions[name].run
        if run is not None:
            trainer = f"waiting for study {run.study!r}, which is already training {name}"
            alias = "" if run.name == name else f" as {run.name}"
            say(trainer + alias)
    stop.graceful = True
    while not stop.requested and budget.pause_reason() is None:
        time.sleep(_POLL_SECONDS)
        current = decide()
        if any(current[name].action != "wait" for name in waiting):
            break
    stop.graceful = False
