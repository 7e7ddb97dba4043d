"""Which process is at work on a study, and whether it still lives."""

import os
import socket
from dataclasses import dataclass
from functools import cache

import psutil

HEARTBEAT_SECONDS = 20.0
EXPIRED_SECONDS = 180.0


@dataclass(frozen=True)
class Owner:
    """A process: its host, its id there, and when it began (seconds since the epoch), because ids
    are used again."""

    host: str
    pid: int
    created: int

    @staticmethod
    def this_process() -> "Owner":
        return _owner(os.getpid())

    @staticmethod
    def parse(text: str) -> "Owner | None":
        """What `str` wrote; None for anything else."""
        parts = text.split()
        if len(parts) != 3 or not all(part.isdigit() for part in parts[1:]):
            return None
        return Owner(parts[0], int(parts[1]), int(parts[2]))

    def __str__(self) -> str:
        return f"{self.host} {self.pid} {self.created}"

    @property
    def described(self) -> str:
        """For messages."""
        return f"process {self.pid} on {self.host}"

    def may_be_alive(self, age: float) -> bool:
        """Whether it may still be at work, its last heartbeat being `age` seconds old.

        On this host the process table knows: one that is suspended shows no life, and goes on one
        day. Elsewhere only the heartbeat does.
        """
        if self == Owner.this_process():
            return False
        if self.host != socket.gethostname():
            return age <= EXPIRED_SECONDS
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < 2
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@cache
def _owner(pid: int) -> Owner:
    """Of this process, asked once: when it began must not change with the clock of the host."""
    return Owner(socket.gethostname(), pid, int(psutil.Process(pid).create_time()))
