"""Scoring in shares on Ray workers."""

from types import SimpleNamespace

import pytest
from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError
from rich.progress import Progress

from orchestrator.evaluation import scoring
from pipelines.data.dataset import DatasetError


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
    task = SimpleNamespace(
        options=lambda **_: SimpleNamespace(remote=lambda *arguments: arguments[-2])
    )
    bar = Progress(disable=True)
    shares = scoring._in_shares(task, None, (), 4, bar, "scored")  # type: ignore[arg-type]
    assert next(shares) == "counted"
    with pytest.raises(expected):
        next(shares)
    assert canceled == [2, 3]
    assert not bar.tasks
