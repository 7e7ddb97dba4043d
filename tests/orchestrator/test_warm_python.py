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

from orchestrator import warm_python

SCRIPT = """\
import json, os, random, sys
import numpy
found = {
    "process": os.getpid(),
    "parent": os.getppid(),
    "arguments": sys.argv,
    "name": __name__,
    "directory": os.getcwd(),
    "path": sys.path[:2],
    "note": os.environ.get("NOTE"),
    "loaded": sorted(name for name in sys.modules if "." not in name),
    "drawn": [random.random(), float(numpy.random.rand())],
    "threads": len(os.listdir("/proc/self/task")),
}
print(json.dumps(found), flush=True)
if "die" in sys.argv:
    os.abort()
"""


@dataclass(frozen=True)
class Warm:
    """raylet: any process whose end is to be the server's end too."""

    directory: Path
    script: Path
    raylet: "subprocess.Popen[bytes]"

    def run(self, *arguments: str, **environment: str) -> dict[str, Any]:
        """What SCRIPT found when run warm."""
        command = [sys.executable, "-S", "-I", warm_python.__file__, str(self.directory)]
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


@pytest.mark.parametrize("name", warm_python.LIBRARIES)
def test_every_library_named_is_installed(name: str) -> None:
    __import__(name)
