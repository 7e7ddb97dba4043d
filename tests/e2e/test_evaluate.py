"""orchestrator.evaluate on a Ray cluster."""

import shutil
from pathlib import Path

import pytest

from orchestrator.evaluate import main
from tests.support.finished_run import FinishedRun


def command(run: FinishedRun, model: str, *options: str) -> int:
    """Evaluate a model on the run's data set and return the exit code."""
    base = [model, "--dataset", str(run.dataset), "--storage", str(run.storage)]
    return main([*base, *options])


def refused(run: FinishedRun, capsys: pytest.CaptureFixture[str], model: str, *options: str) -> str:
    """Run the command, assert exit code 2 and return its output."""
    assert command(run, model, *options) == 2
    return capsys.readouterr().out


@pytest.mark.slow
def test_evaluation_on_a_cluster_equals_local_evaluation(
    finished_run: FinishedRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orchestrator.evaluation.scoring._CHUNKS", 1)
    model = str(finished_run.directory)
    assert command(finished_run, model, "--batch", "1") == 0
    local_output = capsys.readouterr().out
    assert command(finished_run, model, "--batch", "1", "--address", "local") == 0
    assert capsys.readouterr().out == local_output

    damaged = shutil.copytree(finished_run.dataset, tmp_path / "damaged")
    (shard,) = damaged.glob("val*.parquet")
    content = bytearray(shard.read_bytes())
    content[100:300] = bytes(200)
    shard.write_bytes(content)
    printed = refused(finished_run, capsys, model, "--dataset", str(damaged), "--address", "local")
    assert f"{shard}: sample" in printed
    assert f"delete {damaged} and prepare it again" in printed
