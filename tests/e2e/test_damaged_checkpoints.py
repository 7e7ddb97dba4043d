"""A study whose checkpoints were damaged or deleted while it did not run."""

import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.sweep_command import (
    LONG,
    command,
    runs,
    set_pace,
    studies,
    sweep,
    wait_for,
)

EPOCHS = 12


@pytest.fixture
def interrupted(paced_study: Path, request: pytest.FixtureRequest) -> Path:
    """Return the file of a study that was stopped in its first epochs, with several checkpoints."""
    study = paced_study
    text = study.read_text().replace(f"epochs: {LONG}", f"epochs: {EPOCHS}")
    text = text.replace("workers: 1", f"workers: {request.param}")
    study.write_text(text.replace("resources: {", "resources: {keep_checkpoints: 3, "))
    output = study.parent / "output.txt"
    with output.open("w") as file:
        process = subprocess.Popen(command(study), stdout=file)
    try:
        wait_for(lambda: "epoch 3/" in output.read_text() or process.poll() is not None, 400)
        assert process.poll() is None, output.read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(180) == 130
    finally:
        process.kill()
    set_pace(study, 0)
    return study


def checkpoints(study: Path) -> list[Path]:
    """Return the folders of the checkpoints, oldest first."""
    return sorted((study.parent / "storage" / "trials").glob("*/checkpoint_*/"))


def assert_recorded_once(study: Path) -> None:
    """Assert that the trial is finished, and that each epoch was recorded exactly once."""
    _, trials, client = runs(study)
    assert trials["strong"].info.status == "FINISHED"
    history = client.get_metric_history(trials["strong"].info.run_id, "val/miou")
    assert sorted(entry.step for entry in history) == list(range(1, EPOCHS + 1))


@pytest.mark.slow
@pytest.mark.parametrize("interrupted", [1, 2], indirect=True)
def test_study_continues_from_the_last_whole_checkpoint(interrupted: Path) -> None:
    study = interrupted
    *_, before, last = checkpoints(study)
    position = json.loads((before / "state.json").read_text())["position"]
    epoch, step = position["epoch"], position["step"]
    (last / "model.safetensors").write_bytes(b"")
    resumed = sweep(study)
    assert resumed.returncode == 0, resumed.stdout
    printed = " ".join(resumed.stdout.split())
    assert "warning strong: damaged in " in printed
    assert (
        f"{last.name} (model.safetensors is incomplete); it continues from {before.name}" in printed
    )
    assert last.exists()
    logs = studies(study, "logs", "strong")
    assert f"it continues from {before.name}, after epoch {epoch}\n" in logs
    assert f"resumed after epoch {epoch} of {EPOCHS}, step {step}\n" in logs
    assert_recorded_once(study)


@pytest.mark.slow
@pytest.mark.parametrize("interrupted", [1], indirect=True)
def test_study_starts_anew_if_its_checkpoints_are_gone(interrupted: Path) -> None:
    study = interrupted
    trials = study.parent / "storage" / "trials"
    shutil.rmtree(trials)
    epoch = int(runs(study)[1]["strong"].data.metrics["epoch"])
    words = (
        f"the checkpoints of 'strong' (epoch {epoch}) are not in {trials}; it trains from the start"
    )
    plan = sweep(study, "--plan")
    assert words in " ".join(plan.stdout.split())
    assert "1 interrupted" in plan.stdout
    resumed = sweep(study)
    assert resumed.returncode == 0, resumed.stdout
    assert words in " ".join(resumed.stdout.split())
    assert f"epoch 1/{EPOCHS}" in resumed.stdout
    assert_recorded_once(study)
