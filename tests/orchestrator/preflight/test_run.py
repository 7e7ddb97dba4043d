"""How preflight runs start on the cluster, wait and end, without Ray."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from orchestrator.context import StopRequest
from orchestrator.preflight import preflight as module
from orchestrator.preflight import run
from orchestrator.preflight.preflight import Preflight
from orchestrator.preflight.run import run_preflight
from orchestrator.scheduling.budget import Budget
from orchestrator.storage import Storage
from orchestrator.study.config import Limits
from orchestrator.training.worker import DEVICE


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


def test_preflight_requests_machines_and_ends_at_a_limit_while_it_waits_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(Limits(), 1)
    machines = [{"GPU": 1.0}]
    stops: list[bool] = []

    def run_jobs(jobs: Any, concurrent: Any, events: Any, *_: Any, nodes: Any, **__: Any) -> None:
        assert nodes() == machines  # not only those that are up
        stops.append(events.stop_requested())
        budget.pause("limits.wall_hours")
        stops.append(events.stop_requested())

    monkeypatch.setattr(run, "run_jobs", run_jobs)
    monkeypatch.setattr(module, "job_of", lambda trial, run_id, *_: FakeJob(trial, run_id))
    monkeypatch.setattr(module, "untested", lambda todo, *_: todo)
    monkeypatch.setattr(module, "is_worthwhile", lambda *_: True)
    monkeypatch.setattr(module, "nodes_at_full_size", lambda _: machines)
    config = SimpleNamespace(resources=None, protocols={}, sample={})
    study: Any = SimpleNamespace(config=config)
    context: Any = SimpleNamespace(
        storage=Storage.parse(str(tmp_path)), console=Console(quiet=True), stop=StopRequest()
    )
    placement: Any = SimpleNamespace(max_concurrent=None, device="cuda")
    planner: Any = SimpleNamespace(forecaster=None, learn=lambda measurements: None)
    trials: Any = [SimpleNamespace(name="strong")]
    Preflight(study, trials, placement, context, planner).check(trials, {}, budget)
    assert stops == [False, True]


@pytest.mark.parametrize(("nodes", "knows_start"), [([], False), ([{"GPU": 2.0}], True)])
def test_wait_for_machines_is_no_time_that_a_start_takes(
    nodes: list[dict[str, float]], knows_start: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    timings = {"step": 1.0, "validation": None, "whole": 9.0, "preparing": 1.0, "memory_gib": 1.0}
    metrics = {"timings": timings, DEVICE: "a GPU"}
    monkeypatch.setattr(run, "_run_group", lambda *_: metrics)
    monkeypatch.setattr(run, "free_nodes", lambda: nodes)
    job: Any = SimpleNamespace(single_worker=False, workers=2, resources={"GPU": 1.0})
    assert (run._run(job, ())["start"] is not None) == knows_start
