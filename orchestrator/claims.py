"""Who trains a trial, or runs a study, that several processes want at the same moment.

A tracking store can write a tag and read all tags, but not compare and set. So each process first
writes that it asks, then reads who else does. Of those that ask, the one with the lowest token may
stay; but one that read before the others wrote holds already, and the others give way to it. Any
two processes that ask see at least one of them, whatever the order, and never does each think that
it is alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


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
