"""The real autoscaler with the node types of cluster.yaml, started as local processes by Ray's fake
provider: the nodes started for placement groups, the output of `--plan`, and scaling down."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import ray
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FAKE_HEAD_NODE_TYPE,
)
from ray.util import placement_group, remove_placement_group

from orchestrator.cluster import autoscaler_heartbeat
from orchestrator.cluster.autoscaler_heartbeat import AutoscalerHeartbeat, autoscaler_round
from tests.support.aws import use_large_machines

PROJECT = Path(__file__).parents[2]
WORKER = {"CPU": 8.0, "GPU": 1.0, "accelerator_type:L40S": 0.001}
STUDY = """\
study: gangs
base:
  data: {dataset: DATASET, crop: [32, 48]}
  training: {epochs: 1, batch: 4}
variants: {strong: {}, fenet: {set: {model: {supervision: [3]}}}}
resources: {workers: 4, cpus_per_worker: 8, accelerator: L40S}
"""
CORES = """\
study: cores
base:
  data: {dataset: DATASET, crop: [32, 48]}
  model: {backbone: dfnet1, channels: 8, flows: []}
  training: {epochs: 1, batch: 6}
variants: {strong: {}}
resources: {workers: 2, device: cpu}
"""

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Head:
    """A head node with an autoscaler. home: directory of the cluster file that `ray up` writes."""

    address: str
    home: Path


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    directory = Path(tempfile.mkdtemp(prefix="as-", dir="/tmp"))  # socket paths must be short
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"{ray.util.get_node_ip_address()}:{port}"
    config = yaml.safe_load((PROJECT / "cluster.yaml").read_text())
    use_large_machines(config)
    node_types = config["available_node_types"]
    node_types[FAKE_HEAD_NODE_TYPE] = node_types.pop("head")
    for node_type in node_types.values():
        node_type["node_config"] = {}
    config |= {
        "idle_timeout_minutes": 0.1,
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
            "gcs_address": address,
        },
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
    }
    file = directory / "ray_bootstrap_config.yaml"
    file.write_text(yaml.safe_dump(config))
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "disabled",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }
    start = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    start += [
        f"--port={port}",
        "--num-cpus=0",
        "--include-dashboard=false",
        "--resources",
        '{"trial_driver": 1000000}',
    ]
    start += [f"--autoscaling-config={file}", f"--temp-dir={directory}/ray"]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(start, env=environment, stdout=log, stderr=log)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_AUTH_MODE", "disabled")
            _wait_until(lambda: _joins(address), 300)
            yield Head(address, directory)
            ray.shutdown()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        # Nodes of the fake provider are not child processes.
        for leftover in psutil.process_iter(["cmdline"]):
            if any(str(directory) in part for part in leftover.info["cmdline"] or []):
                leftover.kill()
        shutil.rmtree(directory, ignore_errors=True)


def test_autoscaler_starts_the_needed_nodes_and_removes_idle_ones(
    head: Head, small_streets: Path, tmp_path: Path
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(STUDY.replace("DATASET", str(small_streets)))
    assert "2 x gpu" in _study(head, study, tmp_path)
    refused = _study(head, study, tmp_path, "--set", "resources.accelerator=H100", status=2)
    assert "it has L40S" in refused
    assert "gpu (48 CPU, 4 GPU, L40S; 8 at most)" in refused

    groups = [placement_group([WORKER] * 4, strategy="PACK") for _ in range(2)]
    _wait_until(lambda: all(group.wait(1) for group in groups), 120)
    planned = _study(head, study, tmp_path)
    assert "none" in next(line for line in planned.splitlines() if "machines" in line)
    assert _machines() == 2  # --plan starts no further node
    for group in groups:
        remove_placement_group(group)
    _wait_until(lambda: _machines() == 0, 120)


def test_trial_of_several_workers_trains_on_machines_that_it_starts(
    head: Head, small_streets: Path, tmp_path: Path, own_store: Path
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(CORES.replace("DATASET", str(small_streets)))
    output = _study(head, study, tmp_path, plan=False)
    assert "strong: finished" in output
    (log,) = (tmp_path / "storage" / "logs" / "trials").glob("*/worker-1.log")
    assert "worker 1 of 2" in log.read_text()
    _wait_until(lambda: _machines() == 0, 120)


def test_preflight_starts_the_machines_that_it_needs(
    head: Head, small_streets: Path, tmp_path: Path, own_store: Path
) -> None:
    study = tmp_path / "study.yaml"
    long = CORES.replace("epochs: 1", "epochs: 900")
    study.write_text(long.replace("DATASET", str(small_streets)))
    assert _machines() == 0
    command, environment = _command(head, study, tmp_path)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    watchdog = threading.Timer(400, process.kill)
    watchdog.start()
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("preflight  strong: "):
                break
        assert "s per step" in lines[-1], "".join(lines)
    finally:
        watchdog.cancel()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    _wait_until(lambda: _machines() == 0, 120)


def test_stopped_autoscaler_is_reported(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(head.home))
    monkeypatch.setattr(autoscaler_heartbeat, "_SILENT_SECONDS", 15)
    heartbeat = AutoscalerHeartbeat()
    first = autoscaler_round()
    assert first is not None
    _wait_until(lambda: autoscaler_round() != first, 60)  # it works
    assert heartbeat.message() == ""
    (monitor,) = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "autoscaler" in (command := " ".join(process.info["cmdline"] or []))
        and "monitor.py" in command
        and str(head.home) in command
    ]
    monitor.suspend()  # without it, `ray start --block` would end the head
    try:
        _wait_until(lambda: "autoscaler has stopped" in heartbeat.message(), 60)
    finally:
        monitor.resume()
    _wait_until(lambda: heartbeat.message() == "", 60)


def _study(
    head: Head, study: Path, tmp_path: Path, *more: str, status: int = 0, plan: bool = True
) -> str:
    command, environment = _command(head, study, tmp_path, *more)
    command.append("--plan" if plan else "--no-preflight")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def _command(
    head: Head, study: Path, tmp_path: Path, *more: str
) -> tuple[list[str], dict[str, str]]:
    command = [sys.executable, "-m", "orchestrator.sweep", str(study), *more]
    command += ["--address", head.address, "--storage", str(tmp_path / "storage")]
    return command, {**os.environ, "HOME": str(head.home)}


def _machines() -> int:
    """Return the number of live nodes except the head node."""
    return sum(node["Alive"] for node in ray.nodes()) - 1


def _joins(address: str) -> bool:
    try:
        ray.init(address=address, log_to_driver=False)
    except ConnectionError:
        return False
    return True


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.5)
