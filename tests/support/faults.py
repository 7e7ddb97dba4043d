"""A small cluster with a tracking server, on this machine, in which a study meets faults.

The storage is on a file system of its own when this process may mount one (root), so that it can
be filled. The head node has no CPUs; two other nodes have one each.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import requests
import yaml
from ray.cluster_utils import Cluster
from torch.distributed.elastic.utils.distributed import get_free_port

from orchestrator.scheduling.capacity import DRIVER_RESOURCE
from tests.support import ROOT

STUDY = "soak"
SETTINGS = {"RAY_AUTH_MODE": "disabled", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60"}
_DISK_MIB = 3000
_TRAINING = ("ray::ImplicitFunc", "ray::RayTrainWorker", "ray::TrainController")


def study_file(directory: Path, dataset: Path, variants: int, seeds: int, epochs: int) -> Path:
    """Write a study of `variants` times `seeds` short trials of real networks; return its path."""
    rates = {f"rate-{index}": 0.01 * 2**index for index in range(variants)}
    study = {
        "study": STUDY,
        "base": {
            "data": {"dataset": str(dataset), "crop": [32, 48]},
            "model": {"backbone": "dfnet1-half", "channels": 8, "flows": ["detail"]},
            "training": {"epochs": epochs, "batch": 7, "precision": "fp32"},
        },
        "seeds": list(range(seeds)),
        "variants": {
            name: {"set": {"training": {"learning_rate": rate}}} for name, rate in rates.items()
        },
        "resources": {"workers": 1, "node_cache": str(directory / "cache"), "retries": 1000},
    }
    file = directory / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    return file


class Site:
    """The machines, server, disk and command of one study. directory: for all its files."""

    def __init__(self, directory: Path, study: Path) -> None:
        self.directory = directory
        self.study = study
        self.disk = directory / "disk"
        self.storage = self.disk / "storage"
        self.output = directory / "output.txt"
        self._port = get_free_port()
        self._stack = contextlib.ExitStack()
        self._nodes: list[object] = []
        self._server: subprocess.Popen[bytes] | None = None
        self._command: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Site":
        with contextlib.ExitStack() as stack:
            self.has_disk = stack.enter_context(_disk(self.disk))
            stack.callback(self._stop_server)
            self.start_server()
            self._cluster = stack.enter_context(_cluster())
            self._nodes = [self._cluster.add_node(num_cpus=1) for _ in range(2)]
            stack.callback(self.kill_command)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def tracking_uri(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start_server(self) -> None:
        """Start the tracking server and wait until it answers."""
        self.storage.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.storage}/server.db"]
        command += ["--artifacts-destination", str(self.storage / "server-artifacts")]
        # Without its seven processes for jobs, which evaluate language models.
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.directory / "server.txt").open("ab") as log:
            self._server = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                cwd=self.directory,
            )
        end = time.monotonic() + 120
        while time.monotonic() < end:
            with contextlib.suppress(requests.RequestException):
                if requests.get(f"{self.tracking_uri}/health", timeout=5).ok:
                    return
            time.sleep(0.3)
        raise RuntimeError((self.directory / "server.txt").read_text()[-3000:])

    def start_command(self) -> None:
        """Run the study, from where it was left."""
        command = [sys.executable, "-m", "orchestrator.sweep", str(self.study), "--no-preflight"]
        command += ["--storage", str(self.storage), "--address", self._cluster.address]
        environment = {**os.environ, **SETTINGS, "MLFLOW_TRACKING_URI": self.tracking_uri}
        with self.output.open("ab") as log:
            self._command = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=ROOT
            )

    def status(self) -> int | None:
        """Return the exit status of the command, None while it runs."""
        assert self._command is not None
        return self._command.poll()

    def kill_command(self) -> None:
        if self._command is not None:
            self._command.kill()
            self._command.wait()

    def _stop_server(self) -> None:
        if self._server is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()

    def progress(self) -> int:
        """Return the number of epochs that the command has printed."""
        return self.output.read_text().count(": epoch ") if self.output.exists() else 0

    # Faults. Each returns when the cause is gone, and leaves the consequences to the command.

    def worker(self, chance: random.Random) -> None:
        """Kill a process that trains."""
        processes = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                ours = self._cluster.gcs_address in " ".join(_ancestors(process))
                title = " ".join(process.cmdline())  # empty once it has ended
                if ours and title.startswith(_TRAINING):
                    processes.append(process)
        if processes:
            with contextlib.suppress(psutil.Error):
                chance.choice(processes).kill()

    def driver(self, chance: random.Random) -> None:
        """Kill the command, or ask it to stop."""
        assert self._command is not None
        self._command.send_signal(chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        self._command.wait(300)

    def raylet(self, chance: random.Random) -> None:
        """Kill the raylet of a node, whose processes end by themselves; then add a node."""
        node = self._nodes.pop(chance.randrange(len(self._nodes)))
        node.kill_raylet()  # type: ignore[attr-defined]
        time.sleep(chance.uniform(0, 5))
        self._cluster.remove_node(node, allow_graceful=False)
        self._nodes.append(self._cluster.add_node(num_cpus=1))

    def node(self, chance: random.Random) -> None:
        """Kill all processes of a node; add one later."""
        node = self._nodes.pop(chance.randrange(len(self._nodes)))
        self._cluster.remove_node(node, allow_graceful=False)
        time.sleep(chance.uniform(0, 5))
        self._nodes.append(self._cluster.add_node(num_cpus=1))

    def preemption(self, chance: random.Random) -> None:
        """Announce the end of a node, as for a spot machine, and end it later."""
        node = self._nodes.pop(chance.randrange(len(self._nodes)))
        command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node"]
        command += ["--address", self._cluster.address, "--node-id", node.node_id]  # type: ignore[attr-defined]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "soak"]
        command += ["--deadline-remaining-seconds", "30"]
        subprocess.run(command, check=True, capture_output=True)
        self._nodes.append(self._cluster.add_node(num_cpus=1))
        time.sleep(chance.uniform(0, 20))
        self._cluster.remove_node(node, allow_graceful=False)

    def server(self, chance: random.Random) -> None:
        """Kill the tracking server; start it again later."""
        self._stop_server()
        time.sleep(chance.uniform(0, 10))
        self.start_server()

    def full_disk(self, chance: random.Random) -> None:
        """Fill the disk of the storage; make room later."""
        filler = self.disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(2**20))
        time.sleep(chance.uniform(1, 8))
        filler.unlink()

    def clock(self, chance: random.Random) -> None:
        """Step the clock of this machine by minutes; step it back later."""
        seconds = chance.choice([-1, 1]) * chance.uniform(60, 600)
        time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)
        time.sleep(chance.uniform(1, 8))
        time.clock_settime(time.CLOCK_REALTIME, time.time() - seconds)


def _ancestors(process: psutil.Process) -> list[str]:
    """Return the command lines of a process's parents."""
    return [" ".join(parent.cmdline()) for parent in process.parents()]


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[bool]:
    """Mount a small file system; yield False, for a plain folder, where this is not permitted."""
    path.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "tmpfs", str(path)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextlib.contextmanager
def _cluster() -> Iterator[Cluster]:
    previous = dict(os.environ)
    os.environ |= SETTINGS
    head = {"num_cpus": 0, "resources": {DRIVER_RESOURCE: 1e6}, "include_dashboard": True}
    head |= {"dashboard_port": 0}
    head["_system_config"] = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 1000,
        "health_check_failure_threshold": 5,
    }
    try:
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            yield cluster
        finally:
            cluster.shutdown()
    finally:
        os.environ.clear()
        os.environ |= previous
