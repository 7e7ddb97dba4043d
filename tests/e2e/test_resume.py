"""A study that loses a worker, is stopped and killed, and goes on each time."""

import subprocess
import tempfile
from pathlib import Path

import psutil
import pytest

from tests.support.sweep_command import (
    LONG,
    command,
    environment,
    runs,
    studies,
    studies_command,
    sweep,
    train_workers,
    wait_for,
)


@pytest.mark.slow
def test_a_lost_worker_a_stop_from_another_terminal_a_kill_and_going_on(study: Path) -> None:
    """A worker is killed, the command is stopped, resumed and killed itself; then it is run again,
    and every epoch was recorded once."""
    study.write_text(study.read_text().replace("epochs: 3", f"epochs: {LONG}"))
    output = study.parent / "output.txt"
    with output.open("w") as file:
        process = subprocess.Popen(
            command(study, "--only", "strong"), stdout=file, env=environment()
        )
    children: list[psutil.Process] = []
    try:
        wait_for(lambda: f"epoch 2/{LONG}" in output.read_text() or process.poll() is not None, 200)
        assert process.poll() is None, output.read_text()
        workers = train_workers(process.pid)
        assert len(workers) == 2
        workers[1].kill()
        reached = output.read_text().count("epoch ")
        wait_for(
            lambda: output.read_text().count("epoch ") > reached + 2 or process.poll() is not None,
            200,
        )
        assert process.poll() is None, output.read_text()

        paused = train_workers(process.pid)  # or they would be done before the next commands are
        for worker in paused:
            worker.suspend()
        second = sweep(study)
        assert second.returncode == 2
        assert f"is being run by process {process.pid} on" in second.stdout
        assert "strong  training" in studies(study, "status", "tiny").stdout
        assert f"epoch 2 of {LONG}: train/loss" in studies(study, "logs", "strong").stdout
        for worker in paused:
            worker.resume()
        children = psutil.Process(process.pid).children(recursive=True)
        stopped = studies(study, "stop", "tiny")
        assert stopped.returncode == 0, stopped.stdout
        assert process.wait(60) == 130
    finally:
        process.kill()
    assert "asked to stop from another terminal" in output.read_text()
    assert "not finished" in output.read_text()
    wait_for(lambda: not any(child.is_running() for child in children), 20)

    (parent,), trials, client = runs(study)
    assert parent.info.status == "KILLED"
    assert trials["strong"].info.status == "KILLED"
    reached = int(trials["strong"].data.metrics["epoch"])
    assert reached >= 2
    # As a worker leaves it that is killed while it writes a checkpoint.
    run = trials["strong"]
    identity = run.data.tags["orchestrator.identity"][:16]
    left = Path(tempfile.mkdtemp(prefix=f"checkpoint-{identity}-{run.info.run_id}-"))
    output = study.parent / "resumed.txt"
    with output.open("w") as file:
        process = subprocess.Popen(
            studies_command(study, "resume", "tiny"), stdout=file, env=environment()
        )
    try:
        wait_for(lambda: output.read_text().count("epoch ") > 1 or process.poll() is not None, 200)
        assert process.poll() is None, output.read_text()
        children = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if not " ".join(child.cmdline())
            .strip()
            .endswith("Agent")  # Ray's own agents stay for a minute
        ]
    finally:
        process.kill()
        process.wait()
    assert "1 interrupted" in output.read_text()
    # Whether it ended with an epoch or within one, it had a checkpoint there.
    logs = studies(study, "logs", "strong").stdout
    assert f"resumed after epoch {reached} of {LONG}" in logs
    wait_for(lambda: not any(child.is_running() for child in children), 30)
    assert "strong  stopped" in studies(study, "status", "tiny").stdout

    assert not left.exists()

    # The last epochs are enough to see that it went on and did not begin again.
    resumed = sweep(study, "--only", "strong")
    assert resumed.returncode == 0, resumed.stdout
    assert "1 interrupted" in resumed.stdout
    assert f"epoch 1/{LONG}" not in resumed.stdout
    (parent,), trials, client = runs(study)
    assert trials["strong"].info.status == "FINISHED"
    history = client.get_metric_history(trials["strong"].info.run_id, "val/miou")
    assert sorted(entry.step for entry in history) == list(range(1, LONG + 1))
    logs = studies(study, "logs", "strong").stdout
    assert f"epoch {LONG} of {LONG}: train/loss" in logs
