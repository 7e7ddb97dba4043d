"""Worker processes forked from a preloaded server: equivalent to new ones and isolated."""

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
    thread = threading.Thread(target=draw)  # each thread has its own generator
    thread.start()
    thread.join()
state = {
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
print(json.dumps(state), flush=True)
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
results = ray.get([driver.put.remote(value) for value, driver in enumerate(drivers)])
print(json.dumps(dict(zip(("values", "names", "parents"), zip(*results)))), flush=True)
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
class ForkedScript:
    """A script that is run through the fork server in `directory`.

    raylet: a process; the server exits when it exits."""

    directory: Path
    script: Path
    raylet: "subprocess.Popen[bytes]"

    def run(self, *arguments: str, **environment: str) -> dict[str, Any]:
        """Run SCRIPT in a forked process and return the state that it printed."""
        command = [sys.executable, "-S", "-I", fork_server.__file__, str(self.directory)]
        process = subprocess.run(
            [*command, str(self.script), *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=self.script.parent,
            env={**os.environ, "RAY_RAYLET_PID": str(self.raylet.pid), **environment},
        )
        assert process.stdout, process.stderr
        state: dict[str, Any] = json.loads(process.stdout)
        return state


@pytest.fixture(scope="module")
def forked_script(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkedScript]:
    script = tmp_path_factory.mktemp("script") / "script.py"
    script.write_text(SCRIPT)
    with subprocess.Popen(["sleep", "600"]) as raylet:
        yield ForkedScript(tmp_path_factory.mktemp("warm"), script, raylet)
        raylet.kill()


@pytest.mark.slow
def test_forked_script_sees_a_fresh_process(forked_script: ForkedScript) -> None:
    state = forked_script.run("--first", "1", NOTE="for it", PYTHONPATH="/nowhere")
    assert state["arguments"] == [str(forked_script.script), "--first", "1"]
    assert state["name"] == "__main__"
    assert state["directory"] == str(forked_script.script.parent)
    assert state["path"] == [str(forked_script.script.parent), "/nowhere"]
    assert state["note"] == "for it"
    second = forked_script.run()
    assert second["note"] is None
    assert "/nowhere" not in second["path"]
    assert second["process"] != state["process"]
    assert len(state["drawn"]) == 4
    assert set(second["drawn"]).isdisjoint(state["drawn"])


@pytest.mark.slow
def test_server_preloads_libraries_but_not_the_project(forked_script: ForkedScript) -> None:
    loaded = forked_script.run()["loaded"]
    assert {"torch", "ray", "kornia", "matplotlib", "pyarrow"} <= set(loaded)
    assert not {"models", "pipelines", "orchestrator", "mlflow"} & set(loaded)


@pytest.mark.slow
def test_crash_of_a_child_does_not_affect_the_server(forked_script: ForkedScript) -> None:
    died = forked_script.run("die")
    state = forked_script.run()
    assert state["parent"] == died["parent"]
    # The server has its own process group, because Ray kills a worker's whole group.
    with psutil.Process(state["parent"]).oneshot():
        assert os.getpgid(state["parent"]) == state["parent"]


@pytest.mark.slow
def test_killed_server_is_replaced_and_exits_with_the_raylet(forked_script: ForkedScript) -> None:
    first = forked_script.run()["parent"]
    server = psutil.Process(first)
    server.kill()
    server.wait(20)  # until then its socket exists, and the next script would not be forked
    second = forked_script.run()["parent"]
    assert second != first
    assert psutil.pid_exists(second)
    forked_script.raylet.kill()
    forked_script.raylet.wait()
    end = time.monotonic() + 20
    while forked_script.directory.exists():
        assert time.monotonic() < end, "the server went on without its raylet"
        time.sleep(0.1)


def test_script_runs_directly_without_a_server(forked_script: ForkedScript, tmp_path: Path) -> None:
    without_server = ForkedScript(tmp_path / "missing", forked_script.script, forked_script.raylet)
    state = without_server.run("--first")
    assert state["arguments"] == [str(forked_script.script), "--first"]
    assert "torch" not in state["loaded"]


@pytest.mark.slow
def test_forked_processes_read_their_own_objects() -> None:
    """On real Ray: a trial's driver also puts objects for its workers from a thread."""
    process = subprocess.run(
        [sys.executable, "-c", OBJECTS], capture_output=True, text=True, timeout=300
    )
    assert process.stdout, process.stderr
    state = json.loads(process.stdout.splitlines()[-1])
    assert state["values"] == [0, 1, 2, 3]
    assert len(set(state["names"])) == 4
    assert len(set(state["parents"])) == 1, "not forked: this says nothing"


def test_server_does_not_start_if_forked_ids_would_collide(
    forked_script: ForkedScript, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_server, "LIBRARIES", ())
    monkeypatch.setattr(fork_server, "forked_ids_differ", lambda: False)
    assert fork_server.serve(tmp_path) is None
    not_serving = ForkedScript(tmp_path, forked_script.script, forked_script.raylet)
    assert "torch" not in not_serving.run()["loaded"]


@pytest.mark.slow
def test_identical_ids_in_forked_children_are_detected() -> None:
    process = subprocess.run([sys.executable, "-c", DRAWING], capture_output=True, text=True)
    assert process.stdout.split() == ["True", "False"], process.stderr


@pytest.mark.parametrize("name", fork_server.LIBRARIES)
def test_every_preloaded_library_is_installed(name: str) -> None:
    __import__(name)
