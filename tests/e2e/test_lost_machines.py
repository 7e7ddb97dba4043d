"""Nodes that join and leave while a trial trains, on several real Ray nodes on this machine.

The head node has no CPUs; every other node has one, for one worker.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from ray.cluster_utils import Cluster

from orchestrator.scheduling.capacity import DRIVER_RESOURCE
from tests.support.sweep_command import set_pace

pytestmark = pytest.mark.slow
EPOCHS = 10
SETTINGS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",
}


class StudyConfig:
    """A study that a separate process trains on a cluster, with its records and logs."""

    def __init__(self, storage: Path, dataset: Path, address: str, **resources: Any) -> None:
        directory = storage.parent
        self.storage = storage
        self.output = directory / "output"
        study = {
            "study": "lost machines",
            "base": {
                "data": {"dataset": str(dataset), "crop": [32, 32]},
                "model": {
                    "network": "tests.support.paced_network:PacedNetwork",
                    "arguments": {"pace": str(directory / "pace")},
                },
                "training": {"epochs": EPOCHS, "batch": 2, "learning_rate": 0.001},
                "evaluation": {"every": EPOCHS},
            },
            "variants": {"strong": {}},
            "resources": {"node_cache": str(directory / "cache"), "retries": 0, **resources},
        }
        self.file = directory / "study.yaml"
        self.file.write_text(yaml.safe_dump(study))
        self.set_pace(0.1)
        command = [sys.executable, "-m", "orchestrator.sweep", str(self.file), "--no-preflight"]
        command += ["--storage", str(self.storage), "--address", address]
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                command, env={**os.environ, **SETTINGS}, stdout=output, stderr=output
            )

    def epochs(self) -> list[int]:
        """Return the epochs in the tracking store, in the order in which they were logged."""
        client = MlflowClient(f"sqlite:///{self.storage}/mlflow.db")
        experiment = client.get_experiment_by_name("lost machines")
        runs = client.search_runs([experiment.experiment_id])
        (trial,) = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
        history = client.get_metric_history(trial.info.run_id, "train/loss")
        return [entry.step for entry in history]

    def set_pace(self, seconds: float) -> None:
        """Set the least time of a training step. Acts at once."""
        set_pace(self.file, seconds)

    def log(self, worker: int = 0) -> str:
        """Return the log of one of the trial's workers."""
        files = (self.storage / "logs").rglob(f"worker-{worker}.log")
        return "".join(path.read_text() for path in files)

    def wait_until(self, condition: Callable[[], bool], seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not condition():
            message = self.output.read_text()[-3000:] + self.log()[-3000:]
            assert self.process.poll() is None, message
            assert time.monotonic() < end, message
            time.sleep(0.5)

    def end(self) -> None:
        """Kill the process if it still runs."""
        self.process.kill()
        self.process.wait()

    def finish(self) -> None:
        """Wait for success and assert that every epoch was recorded exactly once."""
        self.set_pace(0)
        assert self.process.wait(timeout=300) == 0, self.output.read_text()[-3000:]
        assert self.epochs() == list(range(1, EPOCHS + 1))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        head = {"num_cpus": 0, "resources": {DRIVER_RESOURCE: 1e6}, "include_dashboard": True}
        head["dashboard_port"] = 0  # the default port may be in use
        head["_system_config"] = {
            "health_check_initial_delay_ms": 0,
            "health_check_period_ms": 500,
            "health_check_failure_threshold": 4,
        }
        started = Cluster(initialize_head=True, head_node_args=head)
        yield started
        started.shutdown()


def test_trial_with_a_worker_range_continues_with_fewer_workers(
    cluster: Cluster, small_streets: Path, own_store: Path
) -> None:
    remaining = cluster.add_node(num_cpus=1)
    lost = cluster.add_node(num_cpus=1)
    study = StudyConfig(own_store, small_streets, cluster.address, workers=[1, 2])
    try:
        study.wait_until(lambda: f"epoch 3 of {EPOCHS}" in study.log())
        study.set_pace(2)  # 14 s per epoch, so that it still trains at the next event
        assert "worker 0 of 2" in study.log()
        cluster.remove_node(lost, allow_graceful=False)
        study.finish()
        assert "worker 0 of 1" in study.log()
        assert "resumed after epoch" in study.log()
    finally:
        study.end()
        cluster.remove_node(remaining)


def test_trial_with_fixed_workers_waits_for_a_node_and_leaves_a_preempted_one(
    cluster: Cluster, small_streets: Path, own_store: Path
) -> None:
    first = cluster.add_node(num_cpus=1)
    second = cluster.add_node(num_cpus=1)
    study = StudyConfig(own_store, small_streets, cluster.address, workers=2)
    try:
        study.wait_until(lambda: f"epoch 3 of {EPOCHS}" in study.log())
        study.set_pace(2)  # 14 s per epoch, so that it still trains at the next event
        cluster.remove_node(second, allow_graceful=False)
        third = cluster.add_node(num_cpus=1)
        study.wait_until(lambda: "resumed after epoch" in study.log())
        # The same drain request that orchestrator.cluster.aws_preemption sends for a spot notice.
        drain(cluster.address, third.node_id)
        study.wait_until(lambda: "about to be preempted" in study.log(), 60)
        study.wait_until(lambda: "checkpoint within epoch" in study.log(), 60)
        fourth = cluster.add_node(num_cpus=1)
        study.finish()
        assert study.log().count("resumed after epoch") == 2
        # Only rank 0 logs the epochs; the other workers log only their own events.
        assert "worker 1 of 2" in study.log(worker=1)
        assert study.log().count(f"epoch 2 of {EPOCHS}:") == 1
        assert f"epoch 2 of {EPOCHS}:" not in study.log(worker=1)
    finally:
        study.end()
        for node in (first, fourth):
            cluster.remove_node(node)


def test_trial_of_one_worker_moves_from_a_lost_and_from_a_preempted_node(
    cluster: Cluster, small_streets: Path, own_store: Path
) -> None:
    first = cluster.add_node(num_cpus=1)
    study = StudyConfig(own_store, small_streets, cluster.address, workers=1)
    try:
        study.wait_until(lambda: f"epoch 3 of {EPOCHS}" in study.log())
        study.set_pace(2)  # 14 s per epoch, so that it still trains at the next event
        second = cluster.add_node(num_cpus=1)
        cluster.remove_node(first, allow_graceful=False)
        study.wait_until(lambda: "resumed after epoch" in study.log())
        drain(cluster.address, second.node_id)
        study.wait_until(lambda: "about to be preempted" in study.log(), 60)
        third = cluster.add_node(num_cpus=1)
        study.finish()
        assert study.log().count("resumed after epoch") == 2
        assert study.log().count(f"epoch 2 of {EPOCHS}:") == 1
    finally:
        study.end()
    cluster.remove_node(third)


def drain(address: str, node_id: str) -> None:
    """Mark a node as about to be preempted."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", address]
    command += ["--node-id", node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "test", "--deadline-remaining-seconds", "60"]
    subprocess.run(command, check=True, env={**os.environ, **SETTINGS})
