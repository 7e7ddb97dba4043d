"""Seconds that a command spends outside of its trials, measured by earlier commands.

The file is a cache and may be deleted.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from orchestrator.planning.forecast import Forecaster
from orchestrator.planning.preflight_choice import is_worthwhile, run_seconds
from orchestrator.study.resolved import ResolvedTrial
from pipelines.data.files import write_text

FILE = "overhead.json"


@dataclass(frozen=True)
class Overhead:
    """Seconds of a command before its first trial and after its last one.

    start: reading the study and starting Ray. preflight: the preflight runs. end: scores under the
    study's protocols, figures and report. measured: whether an earlier command measured `start` and
    `end`.
    """

    start: float = 30.0
    preflight: float = 0.0
    end: float = 60.0
    measured: bool = False

    @property
    def seconds(self) -> float:
        """All of them together."""
        return self.start + self.preflight + self.end


def load_overhead(storage: Path, study: str) -> Overhead:
    """Return what the last command on `study` measured, else the last one on any study, else an
    allowance."""
    recorded = _recorded(storage)
    try:
        latest = recorded[study] if study in recorded else list(recorded.values())[-1]
        return Overhead(start=float(latest["start"]), end=float(latest["end"]), measured=True)
    except (TypeError, LookupError, ValueError):
        return Overhead()


def save_overhead(storage: Path, study: str, start: float, end: float) -> None:
    """Record the seconds of a command that trained `study` to the end."""
    path = storage / FILE
    with FileLock(path.with_suffix(".lock")):
        recorded = _recorded(storage)
        recorded.pop(study, None)  # the latest study is the last entry
        recorded[study] = {"start": round(start, 1), "end": round(end, 1)}
        write_text(path, json.dumps(recorded, indent=1))


def preflight_seconds(
    todo: Sequence[ResolvedTrial],
    chosen: Sequence[ResolvedTrial],
    forecaster: Forecaster,
    concurrent: int,
) -> float:
    """Estimate the preflight runs of `chosen` by a command that trains `todo`; 0 if it would skip
    them."""
    if not is_worthwhile(todo, chosen, forecaster):
        return 0.0
    seconds = sum(run_seconds(trial, forecaster) for trial in chosen)
    return seconds / max(1, min(concurrent, len(chosen)))


def _recorded(storage: Path) -> dict[str, Any]:
    """Return the file's content; empty if another version wrote it in another format."""
    try:
        recorded = json.loads((storage / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return recorded if isinstance(recorded, dict) else {}
