"""Who trains a trial, or runs a study, that several processes want at the same moment.

A tracking store can write a tag and read all tags, but not compare and set. So each process first
writes that it asks, then reads who else does. Of those that ask, the one with the lowest token may
stay; but one that read before the others wrote holds already, and the others give way to it. Any
two processes that ask see at least one of them, whatever the order, and never does each think that
it is alone.
"""

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import psutil

HEARTBEAT_SECONDS = 20.0

EXPIRED_SECONDS = 180.0


@dataclass(frozen=True)
class Claim:
    """One process's claim. token: unique, ordered as text; held: settled, not merely asked for."""

    token: str
    held: bool


def settle(token: str, rivals: Iterable[Claim]) -> Literal["take", "wait", "give way"]:
    """What a process that asks under `token` does next.

    rivals: claims of living processes, read after its own was written. `wait`: read again; each
    rival will soon have taken it or given way.
    """
    rivals = list(rivals)
    if any(rival.held or rival.token < token for rival in rivals):
        return "give way"
    return "wait" if rivals else "take"


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
