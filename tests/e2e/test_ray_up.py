"""`ray up` and `ray down` with clusters/on-premises.yaml on SSH hosts of this machine, and a study
that is submitted to the cluster's dashboard and trains on both hosts."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.support.hosts import Hosts, missing_programs, start_hosts

PROJECT = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")
STUDY = """\
study: over two hosts
base:
  data: {dataset: DATASET, crop: [32, 48]}
  model: {backbone: dfnet1, channels: 8, flows: []}
  training: {epochs: 1, batch: 6}
variants: {strong: {}}
resources: {workers: 2, cpus_per_worker: 1}
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_programs()), reason=f"needs {missing_programs()}"),
]


@dataclass(frozen=True)
class Cluster:
    """A running cluster: its hosts, its cluster file and the user's environment."""

    hosts: Hosts
    file: Path
    environment: dict[str, str]

    def command(self, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(part) for part in arguments],
            env=self.environment,
            cwd=self.hosts.shared,
            capture_output=True,
            text=True,
            timeout=300,
        )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Yield a cluster from clusters/on-premises.yaml on two hosts with one CPU each.

    The hosts use the Python environment of these tests instead of installing their own.
    """
    with start_hosts(2) as hosts:
        head, worker = hosts.each
        laptop = hosts.shared / "laptop"
        token = laptop / ".ray" / "auth_token"
        token.parent.mkdir(parents=True)
        token.write_text("0123456789abcdef" * 4)
        config = yaml.safe_load((PROJECT / "clusters" / "on-premises.yaml").read_text())
        config["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address]}
        config |= {"min_workers": 1, "max_workers": 1}
        config["auth"] = {"ssh_user": "root", "ssh_private_key": str(hosts.key)}
        project = "~/segmentation-orchestrator"
        config["file_mounts"] = {
            remote: str(PROJECT / local) if remote.startswith(project) else str(token)
            for remote, local in config["file_mounts"].items()
        }
        # Copying a file avoids quoting its content through Ray and SSH.
        profile = hosts.shared / "profile"
        profile.write_text(
            "export RAY_AUTH_MODE=token PATH=~/.segmentation-environment/bin:$PATH"
            f" PYTHONPATH={project} RAY_gcs_rpc_server_reconnect_timeout_s=10\n"
        )
        config["setup_commands"] = [
            f"ln -sfn {sys.prefix} ~/.segmentation-environment",
            f"cp {profile} ~/.bashrc",
        ]
        for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
            commands[-1] = commands[-1].replace("ray start", "ray start --num-cpus=1")
        file = hosts.shared / "cluster.yaml"
        file.write_text(yaml.safe_dump(config))
        environment = {name: value for name, value in os.environ.items() if "RAY" not in name}
        environment |= {
            "HOME": str(laptop),
            "TMPDIR": str(hosts.shared),
            "RAY_UP_enable_autoscaler_v2": "0",
            "RAY_AUTH_MODE": "token",
            "PYTHONPATH": str(PROJECT),
        }
        environment.pop("MLFLOW_TRACKING_URI", None)
        up = Cluster(hosts, file, environment)
        started = up.command(RAY, "up", "--yes", file)
        assert started.returncode == 0, started.stdout[-3000:] + started.stderr[-3000:]
        _wait_until(lambda: "/2.0 CPU" in head.run("ray status").stdout, 120)
        yield up
        ended = up.command(RAY, "down", "--yes", file)
        assert ended.returncode == 0, ended.stderr[-2000:]
        # Processes of a worker node exit some time after they lose the head node.
        running = "pgrep -a 'raylet|gcs_server'"
        _wait_until(lambda: not any(host.run(running).stdout for host in hosts.each), 90)


def test_study_submitted_to_the_dashboard_trains_on_both_hosts(
    cluster: Cluster, small_streets: Path
) -> None:
    study = cluster.hosts.shared / "study.yaml"
    dataset = shutil.copytree(small_streets, cluster.hosts.shared / "streets")
    study.write_text(STUDY.replace("DATASET", str(dataset)))
    port = _free_port()
    tunnel = subprocess.Popen(
        [str(RAY), "dashboard", "--port", str(port), str(cluster.file)],
        env=cluster.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    sweep = [sys.executable, "-m", "orchestrator.sweep", study]
    storage = cluster.hosts.shared / "storage"
    address = f"http://localhost:{port}"
    try:
        _wait_until(lambda: _answers(port), 180)
        first = cluster.command(*sweep, "--address", address, "--storage", storage)
        assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
        assert "2 workers each" in first.stdout
        again = cluster.command(*sweep, "--address", address, "--storage", storage)
        assert again.returncode == 0
        assert "1 finished" in again.stdout
        planned = cluster.command(*sweep, "--plan", "--address", address, "--storage", storage)
        assert planned.returncode == 0, planned.stdout[-3000:]
        assert "submitted as job over-two-hosts-plan-" in planned.stdout
        relative = cluster.command(*sweep, "--address", address)
        assert relative.returncode == 2
        assert "all machines" in relative.stdout
    finally:
        os.killpg(tunnel.pid, signal.SIGTERM)  # includes its ssh process
        tunnel.wait()
    # Each worker decoded the data into the cache of the host it ran on.
    for host in cluster.hosts.each:
        assert list((host.home / ".cache" / "segmentation-orchestrator").iterdir()), host.name

    # Ray's ssh keeps its connection open, so the tunnel's port may still answer: use another.
    unused = f"http://localhost:{_free_port()}"
    unreachable = cluster.command(*sweep, "--address", unused, "--storage", storage)
    assert unreachable.returncode == 2
    assert "nothing answers at localhost" in unreachable.stdout


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(1)
