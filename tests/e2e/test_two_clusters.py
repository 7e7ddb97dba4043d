"""A second Ray cluster that starts on the machine while a study trains."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.sweep_command import command, wait_for

SECOND = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "dashboard_port": 0})
print("it is there", flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.mark.slow
def test_second_cluster_does_not_disturb_the_workers_of_the_first(paced_study: Path) -> None:
    study = paced_study
    study.write_text(study.read_text().replace("workers: 1", "retries: 0, workers: 2"))
    output = study.parent / "output.txt"

    def epochs() -> int:
        return output.read_text().count("epoch ")

    # Ray stores the address of the latest cluster in RAY_TMPDIR; socket paths must be short.
    with tempfile.TemporaryDirectory(prefix="ray-") as directory, output.open("w") as file:
        settings = {**os.environ, "RAY_TMPDIR": directory}
        first = subprocess.Popen(command(study), stdout=file, env=settings)
        second = None
        try:
            wait_for(lambda: epochs() > 0 or first.poll() is not None, 300)
            second = subprocess.Popen(
                [sys.executable, "-c", SECOND],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=settings,
            )
            assert second.stdout is not None
            assert second.stdout.readline() == b"it is there\n"
            reached = epochs()  # 15 epochs span several of Ray's checks, one per second
            wait_for(lambda: epochs() > reached + 15 or first.poll() is not None, 300)
            assert first.poll() is None, output.read_text()
        finally:
            first.terminate()
            if second is not None:
                second.communicate()
            first.wait()
    assert "a worker was lost" not in output.read_text()
