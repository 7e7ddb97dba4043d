"""Where a command runs, and how it is told to stop."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from orchestrator.ledger import tracking_uri

# What happens once a stop was asked for.
STOPPING = "running trials write a checkpoint and end; the same command goes on from there"


@dataclass
class StopFlag:
    """Whether the user has asked to stop: set by the signal handler, read by the run.

    graceful: trials are running, which takes a moment to end well; before and after, a stop is at
    once.
    """

    requested: bool = False
    graceful: bool = False


@dataclass(frozen=True)
class Setting:
    """Where a command runs. address: of a Ray cluster, None for one of its own on this machine;
    log: the file that takes the libraries' output."""

    storage: Path
    address: str | None
    console: Console
    log: Path
    stop: StopFlag

    @property
    def tracking_uri(self) -> str:
        """`MLFLOW_TRACKING_URI`, or a SQLite file in the storage."""
        return tracking_uri(self.storage)

    @property
    def artifacts(self) -> Path | None:
        """Where a new study keeps its artifacts; a tracking server keeps them itself."""
        return None if self.tracking_uri.startswith("http") else self.storage / "artifacts"
