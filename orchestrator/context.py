"""Where a command runs, and how it is told to stop."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from orchestrator.storage import Storage

# What happens once a stop was asked for.
STOPPING = "running trials write a checkpoint and end; the same command goes on from there"


@dataclass
class StopRequest:
    """Whether the user has asked to stop: set by the signal handler, read by the run.

    graceful: trials are running, which takes a moment to end well; before and after, a stop is at
    once. at_once: when the run was told to stop at once, by a monotonic clock.
    """

    requested: bool = False
    graceful: bool = False
    at_once: float | None = None


@dataclass(frozen=True)
class RunContext:
    """Where a command runs. address: of a Ray cluster, None for one of its own on this machine;
    log: the file that takes the libraries' output. preflight: whether long studies are checked by
    a preflight run first. command: what is needed to run it again, written by `orchestrator.sweep`.
    """

    storage: Storage
    address: str | None
    console: Console
    log: Path
    stop: StopRequest
    preflight: bool = True
    command: str = ""
