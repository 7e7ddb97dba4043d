"""Scoring in shares on Ray workers."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError
from rich.progress import Progress

from models import FENetConfig
from orchestrator.evaluation import scoring
from pipelines.data.dataset import DatasetError
from pipelines.network.config import ModelConfig, NetworkConfig
from pipelines.training.experiment import Experiment


def model(network: ModelConfig, *imports: str) -> Any:
    return SimpleNamespace(experiment=Experiment(model=network), imports=imports)


@pytest.mark.parametrize(
    ("trained", "calls"),
    [
        (model(FENetConfig()), None),
        (model(FENetConfig(), "my_backbones"), 1),
        (model(NetworkConfig("my_networks:UNet")), 1),
    ],
)
def test_process_that_ran_user_code_scores_no_other_share(
    trained: Any, calls: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[Any] = []
    remote_task = scoring._remote_task

    def record(*arguments: Any) -> Any:
        tasks.append(remote_task(*arguments))
        return SimpleNamespace(remote=lambda *_: 0)

    monkeypatch.setattr(scoring, "_remote_task", record)
    monkeypatch.setattr(scoring.ray, "put", lambda model: model)
    monkeypatch.setattr(scoring.ray, "wait", lambda waiting: (waiting[:1], waiting[1:]))
    monkeypatch.setattr(scoring.ray, "get", lambda _: "counted")
    monkeypatch.setattr(scoring, "_machines", lambda: [{"CPU": 1.0}])
    bar = Progress(disable=True)
    assert list(scoring._in_shares(scoring._count, trained, (), 1, bar, "scored")) == ["counted"]
    assert tasks[0]._default_options.get("max_calls") == calls


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (WorkerCrashedError(), WorkerCrashedError),
        (OutOfMemoryError("killed"), OutOfMemoryError),
        (RayTaskError("count", "", DatasetError("damaged")), DatasetError),
    ],
)
def test_failed_share_cancels_the_others(
    raised: Exception, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever error one share raises, the others are canceled and the progress bar is removed."""
    canceled: list[int] = []

    def get(reference: int) -> str:
        if reference == 1:
            raise raised
        return "counted"

    monkeypatch.setattr(scoring.ray, "put", lambda model: model)
    monkeypatch.setattr(scoring.ray, "wait", lambda waiting: (waiting[:1], waiting[1:]))
    monkeypatch.setattr(scoring.ray, "get", get)
    monkeypatch.setattr(scoring.ray, "cancel", canceled.append)
    monkeypatch.setattr(scoring, "_machines", lambda: [{"CPU": 1.0}])
    share_of = SimpleNamespace(remote=lambda *arguments: arguments[-2])
    monkeypatch.setattr(scoring, "_remote_task", lambda *_: share_of)
    bar = Progress(disable=True)
    shares = scoring._in_shares(None, model(FENetConfig()), (), 4, bar, "scored")
    assert next(shares) == "counted"
    with pytest.raises(expected):
        next(shares)
    assert canceled == [2, 3]
    assert not bar.tasks
