"""A study that continues next to another cluster, and resumes after losing a worker, after a stop
and after a kill."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.sweep_command import (
    LONG,
    command,
    runs,
    set_pace,
    studies,
    studies_command,
    sweep,
    train_workers,
    trial_processes,
    wait_for,
)

SECOND = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "dashboard_port": 0})
print("it is there", flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@contextmanager
def second_cluster(variables: dict[str, str]) -> Iterator[None]:
    """Run another Ray cluster on this machine, with these environment variables."""
    process = subprocess.Popen(
        [sys.executable, "-c", SECOND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=variables,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"it is there\n"
        yield
    finally:
        process.communicate()


@pytest.fixture
def ray_directory() -> Iterator[str]:
    """Yield a folder for Ray's files; the paths of its sockets must be short."""
    with tempfile.TemporaryDirectory(prefix="ray-") as directory:
        yield directory


@pytest.mark.slow
def test_study_resumes_after_a_lost_worker_a_stop_and_a_kill(
    paced_study: Path, ray_directory: str
) -> None:
    """Start a second Ray cluster, which must not disturb the workers of the first. Kill one of two
    workers, stop the command, resume it with one worker, kill that and the command, and run it
    again with two: every epoch must be logged exactly once."""
    study = paced_study
    study.write_text(study.read_text().replace("workers: 1", "workers: 2"))
    output = study.parent / "output.txt"
    # Ray stores the address of the latest cluster in RAY_TMPDIR.
    variables = {**os.environ, "RAY_TMPDIR": ray_directory}
    with output.open("w") as file:
        process = subprocess.Popen(command(study), stdout=file, env=variables)
    children: list[psutil.Process] = []
    try:
        wait_for(lambda: f"epoch 2/{LONG}" in output.read_text() or process.poll() is not None, 400)
        assert process.poll() is None, output.read_text()
        set_pace(study, 3600)  # it still trains when the second cluster is there
        with second_cluster(variables):
            set_pace(study, 0.5)
            reached = output.read_text().count("epoch ")
            # 15 epochs span several of Ray's checks, one per second.
            wait_for(
                lambda: (
                    output.read_text().count("epoch ") > reached + 15 or process.poll() is not None
                ),
                300,
            )
            assert process.poll() is None, output.read_text()
        assert "lost its workers" not in output.read_text()
        workers = train_workers(process.pid)
        assert len(workers) == 2
        workers[1].kill()
        reached = output.read_text().count("epoch ")
        wait_for(
            lambda: output.read_text().count("epoch ") > reached + 2 or process.poll() is not None,
            400,
        )
        assert process.poll() is None, output.read_text()
        assert "lost its workers" in output.read_text()

        set_pace(study, 3600)  # it still trains during the next commands
        second = sweep(study)
        assert second.returncode == 2
        assert f"is being run by process {process.pid} on" in second.stdout
        assert "strong  training" in studies(study, "status", "tiny")
        assert f"epoch 2 of {LONG}: train/loss" in studies(study, "logs", "strong")
        set_pace(study, 0.5)
        children = psutil.Process(process.pid).children(recursive=True)
        studies(study, "stop", "tiny")
        assert process.wait(180) == 130
    finally:
        process.kill()
    assert "asked to stop from another terminal" in output.read_text()
    assert "not finished" in output.read_text()
    wait_for(lambda: not any(child.is_running() for child in children), 180)

    (parent,), trials, client = runs(study)
    assert parent.info.status == "KILLED"
    assert trials["strong"].info.status == "KILLED"
    reached = int(trials["strong"].data.metrics["epoch"])
    assert reached >= 2
    # The temporary folder of a worker that was killed while it wrote a checkpoint.
    run = trials["strong"]
    identity = run.data.tags["orchestrator.identity"][:16]
    partial = Path(tempfile.mkdtemp(prefix=f"checkpoint-{identity}-{run.info.run_id}-"))
    study.write_text(study.read_text().replace("workers: 2", "workers: 1"))
    output = study.parent / "resumed.txt"
    with output.open("w") as file:
        process = subprocess.Popen(studies_command(study, "resume", "tiny"), stdout=file)
    try:
        wait_for(lambda: output.read_text().count("epoch ") > 1 or process.poll() is not None, 400)
        assert process.poll() is None, output.read_text()
        (worker,) = trial_processes(process.pid)
        worker.kill()
        before = output.read_text().count("epoch ")
        wait_for(
            lambda: output.read_text().count("epoch ") > before + 2 or process.poll() is not None,
            400,
        )
        assert process.poll() is None, output.read_text()
        children = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if not " ".join(child.cmdline())
            .strip()
            .endswith("Agent")  # Ray's agents exit only after a minute
        ]
    finally:
        process.kill()
        process.wait()
    assert "1 interrupted" in output.read_text()
    # The stop left a checkpoint, either at the end of an epoch or within one.
    logs = studies(study, "logs", "strong")
    assert f"resumed after epoch {reached} of {LONG}" in logs
    wait_for(lambda: not any(child.is_running() for child in children), 180)
    assert "strong  interrupted" in studies(study, "status", "tiny")

    assert not partial.exists()

    study.write_text(study.read_text().replace("workers: 1", "workers: 2"))
    set_pace(study, 0)
    resumed = sweep(study)
    assert resumed.returncode == 0, resumed.stdout
    assert "1 interrupted" in resumed.stdout
    assert f"epoch 1/{LONG}" not in resumed.stdout
    (parent,), trials, client = runs(study)
    assert trials["strong"].info.status == "FINISHED"
    history = client.get_metric_history(trials["strong"].info.run_id, "val/miou")
    assert sorted(entry.step for entry in history) == list(range(1, LONG + 1))
    logs = studies(study, "logs", "strong")
    assert f"epoch {LONG} of {LONG}: train/loss" in logs
