"""Prepares the next items in threads while the current one is in use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    prepare: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int
) -> Iterator[Result]:
    """Yield `map(prepare, items)` in order; at most `ahead` results are pending at a time.

    An error in `prepare` is raised at the position of its result. The threads end with the
    iterator.
    """
    executor = ThreadPoolExecutor(threads, thread_name_prefix="loading")
    pending: deque[Future[Result]] = deque()
    remaining = iter(items)
    try:
        pending.extend(executor.submit(prepare, item) for item in islice(remaining, ahead))
        while pending:
            result = pending.popleft().result()
            pending.extend(executor.submit(prepare, item) for item in islice(remaining, 1))
            yield result
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
