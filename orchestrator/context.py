"""The context of a running command: storage, cluster, console, log, and requests to stop."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from orchestrator.storage import Storage

# What happens after a stop request.
STOPPING = "running trials write a checkpoint and end; rerun the same command to resume"


@dataclass
class StopRequest:
    """Whether the user has requested a stop: set by the signal handler, read by the run.

    graceful: trials are running and need time to write checkpoints; otherwise a stop is immediate.
    aborted_at: the monotonic time of an immediate stop. signal: the number of the last signal; None
    if there was none, as when another terminal requested the stop.
    """

    requested: bool = False
    graceful: bool = False
    aborted_at: float | None = None
    signal: int | None = None


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
