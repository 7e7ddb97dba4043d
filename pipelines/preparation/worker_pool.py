"""Checks samples in worker processes, in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from os import _exit

from pipelines.errors import UserError
from pipelines.preparation.checking import CheckedSample
from pipelines.preparation.readers.reader import Record

# Records submitted per process: enough to keep it busy, few enough to bound memory.
AHEAD = 4


class WorkerKilledError(UserError, ChildProcessError):
    """A worker process was killed, probably for lack of memory."""


@contextmanager
def checked_samples(
    work: Callable[[Record], CheckedSample], records: Iterable[Record], workers: int
) -> Iterator[Iterator[CheckedSample]]:
    """Provide `map(work, records)`, in order, in this process or in `workers` processes."""
    if workers <= 1:
        yield map(work, records)
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_exit_with_parent
    )
    try:
        yield _in_order(pool, work, records, workers * AHEAD)
    except BrokenProcessPool as error:
        raise WorkerKilledError(
            "a worker process was killed, probably for lack of memory; run the same command again "
            "with fewer --workers to resume after the last finished shard"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(
    pool: ProcessPoolExecutor,
    work: Callable[[Record], CheckedSample],
    records: Iterable[Record],
    ahead: int,
) -> Iterator[CheckedSample]:
    source = iter(records)
    pending: deque[Future[CheckedSample]] = deque(
        pool.submit(work, record) for record in islice(source, ahead)
    )
    while pending:
        yield pending.popleft().result()
        pending.extend(pool.submit(work, record) for record in islice(source, 1))


def _exit_with_parent() -> None:
    """In a worker process: exit when the parent process is killed, which Python does not do."""
    parent = parent_process()
    if parent is None:
        return

    def watch(sentinel: int) -> None:
        connection.wait([sentinel])
        _exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()
