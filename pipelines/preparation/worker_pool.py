"""Checks samples in worker processes, in order."""

from __future__ import annotations

import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from os import _exit
from typing import Any, TypeAlias

from models.user_code import describe
from pipelines.errors import UserError
from pipelines.preparation.checking import CheckedSample
from pipelines.preparation.readers.reader import Reader, Record

Work: TypeAlias = Callable[[Reader, Record], CheckedSample]

# Records submitted per process: enough to keep it busy, few enough to bound memory.
AHEAD = 4


class WorkerKilledError(UserError, ChildProcessError):
    """A worker process was killed, probably for lack of memory."""


@contextmanager
def checked_samples(
    work: Work, reader: Reader, records: Iterable[Record], workers: int
) -> Iterator[Iterator[CheckedSample]]:
    """Provide `work(reader, record)` of all records, in order, from this process or from `workers`
    processes.

    Raises:
        UserError: the reader or a record cannot be sent to another process.
        WorkerKilledError: a process was killed.
    """
    if workers <= 1:
        yield map(partial(work, reader), records)
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_exit_with_parent
    )
    try:
        yield _in_order(pool, work, reader, records, workers * AHEAD)
    except BrokenProcessPool as error:
        raise WorkerKilledError(
            "a worker process was killed, probably for lack of memory; run the same command again "
            "with fewer --workers to resume after the last finished shard"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(
    pool: ProcessPoolExecutor, work: Work, reader: Reader, records: Iterable[Record], ahead: int
) -> Iterator[CheckedSample]:
    # Pickled here: an error of the pool's own pickling, in a thread, may block it forever.
    tasks = (_pickled(work, reader, record) for record in records)
    name = type(reader).__name__
    pending: deque[Future[CheckedSample]] = deque(
        pool.submit(_run, name, task) for task in islice(tasks, ahead)
    )
    while pending:
        yield pending.popleft().result()
        pending.extend(pool.submit(_run, name, task) for task in islice(tasks, 1))


def _pickled(work: Work, reader: Reader, record: Record) -> bytes:
    try:
        return pickle.dumps((work, reader, record))
    except Exception as error:  # each class raises its own
        parts = {f"its attribute `{name}`": value for name, value in vars(reader).items()}
        parts |= {"it": reader, f"its record {record.identifier}": record}
        part = next((part for part, value in parts.items() if not _is_picklable(value)), "it")
        raise _not_sent(type(reader).__name__, part, error) from error


def _is_picklable(value: Any) -> bool:
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True


def _run(name: str, task: bytes) -> CheckedSample:
    """In a worker process: run a pickled task. name: of the reader's class."""
    try:
        work, reader, record = pickle.loads(task)
    except Exception as error:
        raise _not_sent(name, "it", error) from error
    checked: CheckedSample = work(reader, record)
    return checked


def _not_sent(name: str, part: str, error: Exception) -> UserError:
    return UserError(
        f"reader {name}: {part} cannot be sent to worker processes ({describe(error)}); create "
        "what cannot be pickled in the method that uses it, or run with --workers 1"
    )


def _exit_with_parent() -> None:
    """In a worker process: exit when the parent process is killed, which Python does not do."""
    parent = parent_process()
    if parent is None:
        return

    def watch(sentinel: int) -> None:
        connection.wait([sentinel])
        _exit(1)

    threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()
