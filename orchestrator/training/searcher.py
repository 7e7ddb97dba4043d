"""Decides which trial Ray Tune starts next: `scheduling.policy` in the form of a Tune searcher.

On its own, Tune would start every trial whose small driver fits; their workers would then wait for
each other forever. This searcher suggests a trial only when its whole gang fits.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from ray.tune.search import Searcher

from orchestrator.scheduling.policy import Node, Running, Waiting, choose, in_order

_NODES_SECONDS = 2.0


class GangSearcher(Searcher):
    """Suggests configurations `{"job": index, "attempt": ..., "last": ...}` when the policy starts
    a trial.

    job: index into `trials`.
    attempt: number of the trial's earlier attempts.
    last: whether no other trial waits.

    nodes: returns the cluster's nodes; called repeatedly, because nodes join and are lost.
    max_concurrent: maximum number of running trials; None for no limit.
    closed: given the number of trials suggested so far, returns whether no further one may start.
    ending: returns whether the running trials must end; then none starts, not even another attempt.
    """

    def __init__(
        self,
        trials: Sequence[Waiting],
        nodes: Callable[[], Sequence[Node]],
        max_concurrent: int | None,
        closed: Callable[[int], bool],
        ending: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._index = {trial.name: index for index, trial in enumerate(trials)}
        self._waiting = in_order(trials)
        self._running: dict[str, tuple[Waiting, float]] = {}
        self._attempts = dict.fromkeys(self._index, 0)
        self._suggested = 0
        self._nodes = nodes
        self._max_concurrent = max_concurrent
        self._closed = closed
        self._ending = ending
        self._clock = clock
        self._current_nodes: Sequence[Node] = ()
        self._nodes_read_at = -math.inf

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the job to start now, None if none can start now, FINISHED if none ever will."""
        waiting = self._waiting
        if self._closed(self._suggested):
            waiting = [trial for trial in waiting if self._attempts[trial.name]]
        if self._ending():
            waiting = []
        if not waiting:  # but a running trial may need another attempt
            return None if self._running else Searcher.FINISHED
        now = self._clock()
        running = [Running(t.gang, t.seconds, now - start) for t, start in self._running.values()]
        if now - self._nodes_read_at >= _NODES_SECONDS:
            self._current_nodes, self._nodes_read_at = self._nodes(), now
        chosen = choose(waiting, running, self._current_nodes, self._max_concurrent)
        if not chosen:
            return None
        self._waiting.remove(chosen[0])
        self._running[trial_id] = chosen[0], now
        name = chosen[0].name
        attempt = self._attempts[name]
        self._suggested += attempt == 0
        return {"job": self._index[name], "attempt": attempt, "last": not self._waiting}

    def retry(self, trial: Waiting) -> None:
        """Start a trial again, before all others; limits on starts do not apply to it."""
        self._attempts[trial.name] += 1
        self._waiting.insert(0, trial)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Release the trial's gang, however the trial ended."""
        self._running.pop(trial_id, None)

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Accept Tune's limit and ignore it: the policy has its own."""
        return True

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: an interrupted study resumes from the tracking store, not Tune's files."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher, and the callables cannot be pickled.
        return {}
