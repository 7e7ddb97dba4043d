"""The command that prints the output of a trial."""

import shlex
from pathlib import Path

DEFAULT_STORAGE = "storage"


def logs_command(name: str, storage: str) -> str:
    """Return the command that prints the output of a trial."""
    command = ["python", "-m", "orchestrator.studies", "logs", name]
    if storage not in (DEFAULT_STORAGE, str(Path.cwd() / DEFAULT_STORAGE)):
        command += ["--storage", storage]
    return shlex.join(command)
