"""Which trial Ray Tune starts next: the policy's decision, in the form of a Tune searcher.

Tune by itself starts as many trials as their drivers fit, and drivers are small: their gangs would
wait for each other for ever. Here no trial is suggested before the whole of its gang fits.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from ray.tune.search import Searcher

from orchestrator.scheduling.policy import Node, Running, Waiting, choose, in_order

_NODES_SECONDS = 2.0


class GangSearcher(Searcher):
    """Suggests `{"job": index, "last": ...}` into `trials`, in the order and at the moment the
    policy says. last: whether no other trial waits.

    nodes: asked again and again, so that what joins the cluster is used and what is lost is not.
    max_concurrent: most trials together. closed: whether nothing may start besides `n` trials.
    """

    def __init__(
        self,
        trials: Sequence[Waiting],
        nodes: Callable[[], Sequence[Node]],
        max_concurrent: int | None,
        closed: Callable[[int], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._index = {trial.name: index for index, trial in enumerate(trials)}
        self._waiting = in_order(trials)
        self._running: dict[str, tuple[Waiting, float]] = {}
        self._admitted = 0
        self._nodes = nodes
        self._max_concurrent = max_concurrent
        self._closed = closed
        self._clock = clock
        self._there: Sequence[Node] = ()
        self._asked = -math.inf

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The job to start now; None for none at the moment, FINISHED for none ever."""
        if not self._waiting or self._closed(self._admitted):
            return Searcher.FINISHED
        now = self._clock()
        running = [Running(t.gang, t.seconds, now - began) for t, began in self._running.values()]
        if now - self._asked >= _NODES_SECONDS:
            self._there, self._asked = self._nodes(), now
        chosen = choose(self._waiting, running, self._there, self._max_concurrent)
        if not chosen:
            return None
        self._waiting.remove(chosen[0])
        self._admitted += 1
        self._running[trial_id] = chosen[0], now
        return {"job": self._index[chosen[0].name], "last": not self._waiting}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The trial's gang is free again, however it ended."""
        self._running.pop(trial_id, None)

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Tune's own bound is not needed beside the policy's."""
        return True

    def save(self, checkpoint_path: str) -> None:
        """Nothing: an interrupted study goes on from the ledger, not from Tune's files."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune writes its searcher to a file, which must not take the callables along.
        return {}
