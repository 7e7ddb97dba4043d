"""Doing the next items' work in threads while the current one is used."""

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
    """`map(prepare, items)` in order, with at most `ahead` results waiting or in work.

    An error in `prepare` is raised where its result would have come. Threads end with the iterator.
    """
    executor = ThreadPoolExecutor(threads, thread_name_prefix="loading")
    pending: deque[Future[Result]] = deque()
    source = iter(items)
    try:
        pending.extend(executor.submit(prepare, item) for item in islice(source, ahead))
        while pending:
            result = pending.popleft().result()
            pending.extend(executor.submit(prepare, item) for item in islice(source, 1))
            yield result
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
