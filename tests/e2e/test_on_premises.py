"""The commands of docs/on-premises.md on SSH hosts of this machine, with a study that trains on
both hosts and is submitted to the cluster's dashboard."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.sweep.__main__ import main
from tests.support.hosts import Hosts, missing_programs, needing, start_hosts

PROJECT = Path(__file__).parents[2]
STUDY = """\
study: over two hosts
base:
  data: {dataset: DATASET, crop: [32, 48]}
  model: {backbone: dfnet1, channels: 8, flows: []}
  training: {epochs: 1, batch: 6}
variants: {strong: {}}
resources: {workers: 2, cpus_per_worker: 1}
"""

pytestmark = needing(missing_programs())


@pytest.fixture(scope="module")
def hosts(small_streets: Path) -> Iterator[Hosts]:
    """Yield two hosts with one CPU each, on which Ray runs, after a study has trained.

    They use the Python environment of these tests instead of installing their own.
    """
    document = (PROJECT / "docs" / "on-premises.md").read_text()
    _, start, stop, _ = re.findall(r"```sh\n(.*?)```", document, re.DOTALL)
    with start_hosts(2) as started:
        head, worker = started.each
        dataset = shutil.copytree(small_streets, started.shared / "streets")
        (started.shared / "study.yaml").write_text(STUDY.replace("DATASET", str(dataset)))
        project = started.shared / "segmentation-orchestrator"
        project.mkdir()
        (project / ".venv").symlink_to(sys.prefix)
        for name in ("models", "pipelines", "orchestrator"):
            (project / name).symlink_to(PROJECT / name)
        (head.home / ".ssh").mkdir(mode=0o700)
        (head.home / ".ssh" / "config").write_text(
            f"IdentityFile {started.key}\nStrictHostKeyChecking no\nLogLevel ERROR\n"
        )

        stop = "PATH=/shared/segmentation-orchestrator/.venv/bin:$PATH\n" + stop

        def run(block: str) -> "subprocess.CompletedProcess[str]":
            for name, value in {
                "192.0.2.11 192.0.2.12": worker.address,
                "192.0.2.10": head.address,
                "/shared": str(started.shared),
                "ray start": "ray start --num-cpus=1",
                "STUDY.yaml": f"{started.shared}/study.yaml",
            }.items():
                assert name in document
                block = block.replace(name, value)
            return head.execute("bash", "-ec", block, timeout=1500)

        for _ in range(3):  # Ray gives up after 30 s, which a busy machine may need
            result = run(start)
            if "timed out during startup" not in result.stderr:
                break
            run(stop)
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        assert "2 workers each" in result.stdout
        yield started
        assert run(stop).returncode == 0
        running = "pgrep -a 'raylet|gcs_server'"
        assert not any(host.execute("sh", "-c", running).stdout for host in started.each)


def test_study_trains_on_both_hosts_and_is_submitted_to_the_dashboard(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Each worker decoded the data into the cache of the host it ran on.
    for host in hosts.each:
        assert list((host.home / ".cache" / "segmentation-orchestrator").iterdir()), host.name
    laptop = hosts.shared / "laptop"
    shutil.copytree(hosts.each[0].home / ".ray", laptop / ".ray")
    for name in list(os.environ):
        if "RAY" in name or name == "MLFLOW_TRACKING_URI":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(laptop))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.chdir(hosts.shared)

    def arguments(address: str, *options: str) -> list[str]:
        return [str(hosts.shared / "study.yaml"), "--address", address, *options]

    def sweep(address: str, *options: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "orchestrator.sweep", *arguments(address, *options)],
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
            timeout=300,
        )

    port = _free_port()
    tunnel = subprocess.Popen(
        ["ssh", "-i", str(hosts.key), "-o", "StrictHostKeyChecking=no", "-o"]
        + ["UserKnownHostsFile=/dev/null", "-N", "-L", f"{port}:localhost:8265"]
        + [f"root@{hosts.each[0].address}"],
        stderr=subprocess.DEVNULL,
    )
    address, storage = f"http://localhost:{port}", ("--storage", str(hosts.shared / "storage"))
    try:
        _wait_until(lambda: _answers(port), 60)
        again = sweep(address, *storage)
        assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
        assert "1 finished" in again.stdout
        planned = sweep(address, "--plan", *storage)
        assert planned.returncode == 0, planned.stdout[-3000:]
        assert "submitted as job over-two-hosts-plan-" in planned.stdout
        assert main(arguments(address)) == 2
        assert "all machines" in capsys.readouterr().out
    finally:
        tunnel.terminate()
        tunnel.wait()
    assert main(arguments(address, *storage)) == 2
    assert "nothing answers at localhost" in capsys.readouterr().out


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
