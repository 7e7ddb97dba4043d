"""Whether the process that runs a study is alive.

The process renews a heartbeat in the tracking store. It counts as ended once this process has read
the same heartbeat for minutes, or if the kernel has released its lock (`process_lock`). No clock,
host name or process id decides: clocks are stepped, and containers share names and ids.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Run

from orchestrator.tracking import tags as tag
from orchestrator.tracking.claims import Owner
from orchestrator.tracking.process_lock import has_ended

HEARTBEAT_SECONDS = 10.0

EXPIRED_SECONDS = 180.0

# After a longer pause between two reads, for example because the server did not answer, the silence
# is measured anew: the other process could not renew its heartbeat either.
_PAUSE_SECONDS = 60.0


@dataclass(frozen=True)
class LockHolder:
    """Another process that holds a study's lock. age: seconds since its last heartbeat, as far as
    the clocks of the two machines agree; for display and plans only."""

    owner: Owner
    age: float

    @property
    def is_silent(self) -> bool:
        """Whether the process has probably ended, by the age of its heartbeat."""
        return self.age > EXPIRED_SECONDS


class Liveness:
    """Watches the heartbeats of other processes, as this process reads them.

    locks: the folder of the processes' locks; None if there is none.
    """

    def __init__(self, locks: Path | None = None) -> None:
        self._locks = locks
        self._reads: dict[str, tuple[str, float, float]] = {}  # value, first and last read

    def lock_holder(self, parent: Run) -> LockHolder | None:
        """Return the other process that runs a study, given the study's run; None if there is none
        or it has ended."""
        tags = parent.data.tags
        owner = Owner.parse(tags.get(tag.OWNER, ""))
        if parent.info.status != "RUNNING" or owner is None or owner == Owner.this_process():
            return None
        if self.has_ended(parent):
            return None
        age = time.time() - float(tags.get(tag.HEARTBEAT, "0"))
        return LockHolder(owner, max(0.0, age))

    def has_ended(self, parent: Run) -> bool:
        """Whether another process has left the study's run RUNNING and has ended."""
        tags = parent.data.tags
        owner = tags.get(tag.OWNER, "")
        if parent.info.status != "RUNNING" or owner == str(Owner.this_process()):
            return False
        heartbeat = f"{owner} {tags.get(tag.HEARTBEAT, '')}"
        silence = self.seconds_unchanged(parent.info.run_id, heartbeat)
        return silence >= EXPIRED_SECONDS or has_ended(tags.get(tag.PROCESS_LOCK, ""), self._locks)

    def seconds_unchanged(self, key: str, value: str) -> float:
        """Return for how long this process has read the same `value` under `key`."""
        now = time.monotonic()
        previous, since, last = self._reads.get(key, ("", now, now))
        if previous != value or now - last > _PAUSE_SECONDS:
            since = now
        self._reads[key] = (value, since, now)
        return now - since
