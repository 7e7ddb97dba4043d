"""Watches the disk of the storage: a study ends while a checkpoint of each trial still fits."""

import shutil
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from orchestrator.planning.forecast import checkpoint_bytes
from orchestrator.planning.plan_table import size_text
from orchestrator.storage import Storage
from orchestrator.study.resolved import ResolvedTrial

_CHECK_SECONDS = 5.0
# For the tracking store and logs.
_MARGIN_BYTES = 32 << 20
_ADVICE = "make room, then rerun the same command to continue"


class DiskSpace:
    """The free space of a storage, and what its running trials need to end at a checkpoint.

    A storage that is a URI has no limit that this machine can see.
    """

    def __init__(
        self, storage: Storage, trials: Iterable[ResolvedTrial], concurrent: int | None
    ) -> None:
        """trials: those to train, `concurrent` at a time; None for all."""
        largest = sorted(map(checkpoint_bytes, trials), reverse=True)[:concurrent]
        self.needed = sum(largest) + _MARGIN_BYTES
        self._storage = storage
        self._checked_at = float("-inf")
        self._message: str | None = None

    def shortage(self) -> str | None:
        """Return why the trials must end at their next checkpoint; None if there is space. Looks at
        the disk every few seconds."""
        if time.monotonic() - self._checked_at < _CHECK_SECONDS:
            return self._message
        self._checked_at = time.monotonic()
        available = self._storage.free_bytes
        if available is not None and available < self.needed:
            self._message = (
                f"the disk of {self._storage.local} has {size_text(available)} left; the running "
                f"trials need {size_text(self.needed)} to end at a checkpoint: {_ADVICE}"
            )
        return self._message


def disk_full_message(storage: Storage) -> str:
    """Return what to tell the user after a write failed because a disk is full."""
    free: dict[Path, int] = {}
    for directory in (storage.local, Path(tempfile.gettempdir())):
        with suppress(OSError):
            free[directory] = shutil.disk_usage(directory).free
    fullest = min(free, key=lambda path: free[path], default=storage.local)
    left = f" ({size_text(free[fullest])} left)" if free else ""
    return f"no space left on the disk of {fullest}{left}; {_ADVICE}"
