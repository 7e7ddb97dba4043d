"""Settles which process trains a trial, or runs a study, when several want it at the same moment.

A tracking store can write a tag and read all tags, but it has no compare-and-set. So each process
first writes a request, then reads the requests of the others. The request with the lowest token
wins, unless another process already holds the claim because it read before the others wrote; then
all others give way to it. Of any two processes, the one that reads last sees the other's request,
whatever the order, so two processes can never both believe that they are alone.
"""

import os
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal


@dataclass(frozen=True)
class Claim:
    """One process's claim. token: unique, ordered as text; held: settled, not just requested."""

    token: str
    held: bool


def settle(token: str, rivals: Iterable[Claim]) -> Literal["take", "wait", "give way"]:
    """Return what the process that requested under `token` does next.

    rivals: claims of other live processes, read after its own was written. On `wait`, read again:
    each rival will soon have taken the claim or given way.
    """
    rivals = list(rivals)
    if any(rival.held or rival.token < token for rival in rivals):
        return "give way"
    return "wait" if rivals else "take"


@dataclass(frozen=True)
class Owner:
    """A process: its host, its id, and a random number, because process ids are reused and two
    containers may share the host's name."""

    host: str
    pid: int
    token: int

    @staticmethod
    def this_process() -> "Owner":
        return _owner(os.getpid())

    @staticmethod
    def parse(text: str) -> "Owner | None":
        """Parse what `str` wrote; return None for anything else."""
        parts = text.split()
        if len(parts) != 3 or not all(part.isdigit() for part in parts[1:]):
            return None
        return Owner(parts[0], int(parts[1]), int(parts[2]))

    def __str__(self) -> str:
        return f"{self.host} {self.pid} {self.token}"

    @property
    def description(self) -> str:
        """The process, for messages."""
        return f"process {self.pid} on {self.host}"


@cache
def _owner(pid: int) -> Owner:
    """Return the owner `pid`, cached: a forked process is another one."""
    return Owner(socket.gethostname(), pid, secrets.randbits(48))
