"""Scoring in chunks on Ray workers."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError
from rich.progress import Progress

from models import FENetConfig
from orchestrator.evaluation import scoring
from orchestrator.evaluation.scoring import EvaluationEndedError
from pipelines.data.manifest import DatasetError
from pipelines.network.config import ModelConfig, NetworkConfig
from pipelines.training.experiment import Experiment


def model(network: ModelConfig, *imports: str) -> Any:
    return SimpleNamespace(experiment=Experiment(model=network), imports=imports)


def no_reason(waits: bool) -> str:
    return ""


@pytest.mark.parametrize(
    ("trained", "calls"),
    [
        (model(FENetConfig()), None),
        (model(FENetConfig(), "my_backbones"), 1),
        (model(NetworkConfig("my_networks:UNet")), 1),
    ],
)
def test_process_that_ran_user_code_scores_no_other_chunk(
    trained: Any, calls: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[Any] = []
    remote_task = scoring._remote_task

    def record(*arguments: Any) -> Any:
        tasks.append(remote_task(*arguments))
        return SimpleNamespace(remote=lambda *_: 0)

    monkeypatch.setattr(scoring, "_remote_task", record)
    monkeypatch.setattr(scoring.ray, "put", lambda model: model)
    monkeypatch.setattr(scoring.ray, "wait", lambda waiting, timeout: (waiting[:1], waiting[1:]))
    monkeypatch.setattr(scoring.ray, "get", lambda _: "counted")
    monkeypatch.setattr(scoring, "connected_nodes", lambda: [{"CPU": 1.0}])
    bar = Progress(disable=True)
    chunks = scoring._in_chunks(scoring._count, trained, (), 1, bar, "scored", no_reason)
    assert list(chunks) == ["counted"]
    assert tasks[0]._default_options.get("max_calls") == calls


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (WorkerCrashedError(), WorkerCrashedError),
        (OutOfMemoryError("killed"), OutOfMemoryError),
        (RayTaskError("count", "", DatasetError("damaged")), DatasetError),
    ],
)
def test_failed_chunk_cancels_the_others(
    raised: Exception, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever error one chunk raises, the others are canceled and the progress bar is removed."""
    canceled: list[int] = []

    def get(reference: int) -> str:
        if reference == 1:
            raise raised
        return "counted"

    monkeypatch.setattr(scoring.ray, "put", lambda model: model)
    monkeypatch.setattr(scoring.ray, "wait", lambda waiting, timeout: (waiting[:1], waiting[1:]))
    monkeypatch.setattr(scoring.ray, "get", get)
    monkeypatch.setattr(scoring.ray, "cancel", canceled.append)
    monkeypatch.setattr(scoring, "connected_nodes", lambda: [{"CPU": 1.0}])
    chunk_task = SimpleNamespace(remote=lambda *arguments: arguments[-2])
    monkeypatch.setattr(scoring, "_remote_task", lambda *_: chunk_task)
    bar = Progress(disable=True)
    chunks = scoring._in_chunks(None, model(FENetConfig()), (), 4, bar, "scored", no_reason)
    assert next(chunks) == "counted"
    with pytest.raises(expected):
        next(chunks)
    assert canceled == [2, 3]
    assert not bar.tasks


@pytest.mark.parametrize("nodes", [[], [{"CPU": 1.0}]])
def test_evaluation_that_waits_for_machines_can_be_ended(
    nodes: list[dict[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    canceled: list[int] = []
    asked: list[bool] = []

    def stop_reason(waits: bool) -> str:
        asked.append(waits)
        return "stopped" if len(asked) == 3 else ""

    monkeypatch.setattr(scoring.ray, "put", lambda model: model)
    monkeypatch.setattr(scoring.ray, "wait", lambda pending, timeout: ([], pending))
    monkeypatch.setattr(scoring.ray, "cancel", canceled.append)
    monkeypatch.setattr(scoring, "connected_nodes", lambda: nodes)
    monkeypatch.setattr(scoring, "nodes_at_full_size", lambda _: [{"CPU": 1.0}])
    task = SimpleNamespace(remote=lambda *arguments: 7)
    monkeypatch.setattr(scoring, "_remote_task", lambda *_: task)
    trained = model(FENetConfig())
    with pytest.raises(EvaluationEndedError, match="stopped"):
        list(
            scoring._in_chunks(None, trained, (), 2, Progress(disable=True), "scored", stop_reason)
        )
    assert canceled == [7, 7]
    assert asked == 3 * [not nodes]
    asked.clear()
    with pytest.raises(EvaluationEndedError, match="stopped"):
        scoring.run_on_device(None, trained, (), 1, stop_reason)
    assert canceled == [7, 7, 7]
