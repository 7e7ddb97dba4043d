"""Worker processes forked from a warm one: as good as new, and each on its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.cluster import fork_server

SCRIPT = """\
import json, os, random, sys, threading
import numpy

names = []
if "ray" in sys.modules:
    from ray import JobID, PlacementGroupID

    def draw():
        names.append(PlacementGroupID.of(JobID.from_int(1)).hex())

    draw()
    thread = threading.Thread(target=draw)  # each has a generator of its own
    thread.start()
    thread.join()
found = {
    "process": os.getpid(),
    "parent": os.getppid(),
    "arguments": sys.argv,
    "name": __name__,
    "directory": os.getcwd(),
    "path": sys.path[:2],
    "note": os.environ.get("NOTE"),
    "loaded": sorted(name for name in sys.modules if "." not in name),
    "drawn": [random.random(), float(numpy.random.rand()), *names],
    "threads": len(os.listdir("/proc/self/task")),
}
print(json.dumps(found), flush=True)
if "die" in sys.argv:
    os.abort()
"""


OBJECTS = """\
import json, os, threading
import ray
from orchestrator.cluster import connect

connect.connect(None, {})

@ray.remote(num_cpus=0)
class Driver:
    def put(self, value):
        thread = threading.Thread(target=self._put, args=(value,))
        thread.start()
        thread.join()
        return ray.get(self.reference), self.reference.hex(), os.getppid()

    def _put(self, value):
        self.reference = ray.put(value)

drivers = [Driver.remote() for _ in range(4)]
found = ray.get([driver.put.remote(value) for value, driver in enumerate(drivers)])
print(json.dumps(dict(zip(("values", "names", "parents"), zip(*found)))), flush=True)
connect.disconnect()
"""
DRAWING = """\
from ray import JobID, PlacementGroupID
from orchestrator.cluster.fork_server import forked_ids_differ, import_libraries

import_libraries()
print(forked_ids_differ())
PlacementGroupID.of(JobID.from_int(1))
print(forked_ids_differ())
"""


@dataclass(frozen=True)
class Warm:
    """raylet: any process whose end is to be the server's end too."""

    directory: Path
    script: Path
    raylet: "subprocess.Popen[bytes]"

    def run(self, *arguments: str, **environment: str) -> dict[str, Any]:
        """What SCRIPT found when run warm."""
        command = [sys.executable, "-S", "-I", fork_server.__file__, str(self.directory)]
        done = subprocess.run(
            [*command, str(self.script), *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=self.script.parent,
            env={**os.environ, "RAY_RAYLET_PID": str(self.raylet.pid), **environment},
        )
        assert done.stdout, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    script = tmp_path_factory.mktemp("script") / "script.py"
    script.write_text(SCRIPT)
    with subprocess.Popen(["sleep", "600"]) as raylet:
        yield Warm(tmp_path_factory.mktemp("warm"), script, raylet)
        raylet.kill()


@pytest.mark.slow
def test_a_script_finds_itself_as_if_it_had_been_started(warm: Warm) -> None:
    found = warm.run("--first", "1", NOTE="for it", PYTHONPATH="/nowhere")
    assert found["arguments"] == [str(warm.script), "--first", "1"]
    assert found["name"] == "__main__"
    assert found["directory"] == str(warm.script.parent)
    assert found["path"] == [str(warm.script.parent), "/nowhere"]
    assert found["note"] == "for it"
    again = warm.run()
    assert again["note"] is None
    assert "/nowhere" not in again["path"]
    assert again["process"] != found["process"]
    assert len(found["drawn"]) == 4
    assert set(again["drawn"]).isdisjoint(found["drawn"])


@pytest.mark.slow
def test_libraries_are_loaded_and_the_projects_own_sources_are_not(warm: Warm) -> None:
    loaded = warm.run()["loaded"]
    assert {"torch", "ray", "kornia", "matplotlib", "pyarrow"} <= set(loaded)
    assert not {"models", "pipelines", "orchestrator", "mlflow"} & set(loaded)


@pytest.mark.slow
def test_a_crash_touches_neither_the_server_nor_the_next(warm: Warm) -> None:
    died = warm.run("die")
    found = warm.run()
    assert found["parent"] == died["parent"]
    # A process group of its own: Ray ends a worker's whole group.
    with psutil.Process(found["parent"]).oneshot():
        assert os.getpgid(found["parent"]) == found["parent"]


@pytest.mark.slow
def test_a_killed_server_is_replaced_and_ends_with_the_raylet(warm: Warm) -> None:
    first = warm.run()["parent"]
    server = psutil.Process(first)
    server.kill()
    server.wait(20)  # until then its socket is there, and the next would be run cold
    second = warm.run()["parent"]
    assert second != first
    assert psutil.pid_exists(second)
    warm.raylet.kill()
    warm.raylet.wait()
    end = time.monotonic() + 20
    while warm.directory.exists():
        assert time.monotonic() < end, "the server went on without its raylet"
        time.sleep(0.1)


def test_without_a_server_the_script_is_run_cold(warm: Warm, tmp_path: Path) -> None:
    nowhere = Warm(tmp_path / "missing", warm.script, warm.raylet)
    found = nowhere.run("--first")
    assert found["arguments"] == [str(warm.script), "--first"]
    assert "torch" not in found["loaded"]


@pytest.mark.slow
def test_a_process_reads_its_own_objects() -> None:
    """On a real Ray: what the driver of a trial hands to its gang is put from a thread, too."""
    done = subprocess.run(
        [sys.executable, "-c", OBJECTS], capture_output=True, text=True, timeout=300
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["values"] == [0, 1, 2, 3]
    assert len(set(found["names"])) == 4
    assert len(set(found["parents"])) == 1, "not forked: this says nothing"


def test_a_server_whose_children_would_draw_alike_does_not_serve(
    warm: Warm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_server, "LIBRARIES", ())
    monkeypatch.setattr(fork_server, "forked_ids_differ", lambda: False)
    assert fork_server.serve(tmp_path) is None
    refused = Warm(tmp_path, warm.script, warm.raylet)
    assert "torch" not in refused.run()["loaded"]


@pytest.mark.slow
def test_it_is_seen_whether_children_would_draw_alike() -> None:
    done = subprocess.run([sys.executable, "-c", DRAWING], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr


@pytest.mark.parametrize("name", fork_server.LIBRARIES)
def test_every_library_named_is_installed(name: str) -> None:
    __import__(name)
