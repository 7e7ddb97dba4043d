"""How preflight runs start on the cluster, without Ray."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.preflight import run
from orchestrator.preflight.run import run_preflight
from orchestrator.storage import Storage


@dataclass(frozen=True)
class FakeJob:
    name: str
    run_id: str
    storage: str = ""
    retries: int = 0


def preflight(directory: Path) -> None:
    trial: Any = "strong"
    run_preflight(
        [trial],
        lambda trial, run_id: FakeJob(trial, run_id),  # type: ignore[arg-type, return-value]
        (),
        None,
        Storage.parse(str(directory)),
        lambda line: None,
        lambda: False,
    )


def test_commands_of_equal_process_ids_share_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in containers on several hosts, with a storage that they share."""
    folders: list[tuple[str, str, Path]] = []

    def run_jobs(
        jobs: list[FakeJob], concurrent: Any, events: Any, local: Path, *_: Any, **__: Any
    ) -> None:
        folders.append((jobs[0].run_id, jobs[0].storage, local))

    monkeypatch.setattr(run, "run_jobs", run_jobs)
    for _ in range(2):
        preflight(tmp_path)
    for first, second in zip(*folders, strict=True):
        assert first != second
