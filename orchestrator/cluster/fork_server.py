"""Python for Ray's worker processes, started warm: forked from one that has the libraries imported.

    python -S -I warm_python.py DIRECTORY SCRIPT ARGUMENT...

runs SCRIPT as `python SCRIPT ARGUMENT...` would, in a process of its own with this one's
environment, working directory and output, but without the seconds it takes to import torch, Ray and
their like. The first call starts the process that imports them, the server. It listens on a socket
in DIRECTORY, hears of nothing but what it is to fork, and ends with the raylet. Processes forked
from it share pages that nobody has written to, and nothing else. Where no server answers, SCRIPT is
run cold.

The project's own modules are not imported beforehand: a trial runs the sources as they are when it
starts. Loading this file must stay cheap, because the start of every worker pays for it.

Ray names its tasks and objects by random numbers. Had its generator been used in the server, all
processes forked there would go on with the same numbers, and one would read what another had put
under the same name. `import_libraries` keeps it unused; where two children draw alike all the same,
the server does not serve.
"""

import fcntl
import json
import os
import socket
import sys
import time
from pathlib import Path

# What the processes of Ray and of the trials import sooner or later.
LIBRARIES = (
    "ray.train.torch",
    "ray.train.v2._internal.execution.controller",
    "ray.tune",
    "torch._dynamo",  # every optimizer imports it when it is made
    "torchmetrics",
    "kornia.color",
    "kornia.enhance",
    "kornia.filters",
    "safetensors.torch",
    "pyarrow.parquet",
    "pyarrow.fs",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "PIL.Image",
)
_SERVE = "--serve"
_REFUSED = "refused"  # beside the socket: this machine's processes are not to be forked
_RAYLET = "RAY_RAYLET_PID"  # in the environment of every process that a raylet starts
_LENGTH_BYTES = 8
_PATIENCE_SECONDS = 60.0  # for the server to import the libraries on a busy machine


def main() -> None:
    """Have SCRIPT run by the server's child, or else run it here."""
    directory, script = Path(sys.argv[1]), sys.argv[2:]
    try:
        _ask_to_fork(_connect(directory), script)
    except OSError:
        os.execv(sys.executable, [sys.executable, *script])


def _connect(directory: Path) -> socket.socket:
    """A connection to the server, which is started where there is none. Raises OSError."""
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        connection = _try_to_connect(directory)
        if connection is not None:
            return connection
        refused = directory / _REFUSED
        if refused.exists():
            raise ConnectionRefusedError(refused)
        if os.fork() == 0:
            os.close(lock.fileno())
            _become_server(directory)
        end = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < end and not refused.exists():
            connection = _try_to_connect(directory)
            if connection is not None:
                return connection
            time.sleep(0.02)
    raise TimeoutError("no server: the libraries took too long, or it refuses")


def _try_to_connect(directory: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(directory / "socket"))
    except OSError:  # not there yet, or left by one that was killed
        connection.close()
        return None
    return connection


def _become_server(directory: Path) -> None:
    """Go on as the server, apart from the process that asked for it."""
    os.setsid()
    output = os.open(directory / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    # -P: the modules beside this file are no libraries.
    os.execv(sys.executable, [sys.executable, "-P", __file__, _SERVE, str(directory)])


def _ask_to_fork(connection: socket.socket, script: list[str]) -> None:
    """Hand this process's place in the world to a child of the server. Raises OSError."""
    wanted = {"script": script, "directory": os.getcwd(), "environment": dict(os.environ)}
    content = json.dumps(wanted).encode()
    with connection:
        socket.send_fds(connection, [len(content).to_bytes(_LENGTH_BYTES, "big")], [0, 1, 2])
        connection.sendall(content)
        if not connection.recv(1):
            raise ConnectionError("the server could not fork")


def serve(directory: Path) -> dict[str, object] | None:
    """Import the libraries, then fork whenever asked to. Returns None in the server, when the
    raylet has gone, and in a child what it was forked for."""
    import gc
    import shutil
    import signal

    import_libraries()
    if not forked_ids_differ():
        print("processes forked here would name Ray's objects alike", file=sys.stderr)
        (directory / _REFUSED).touch()
        return None
    gc.collect()
    gc.freeze()  # a collection in a child would write to all pages it shares
    path = directory / "socket"
    path.unlink(missing_ok=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are nobody's to wait for
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(64)
        listener.settimeout(1.0)
        while _is_alive(int(os.environ[_RAYLET])):
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                wanted = _fork_for(connection)
            if wanted is not None:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                return wanted
    shutil.rmtree(directory, ignore_errors=True)
    return None


def import_libraries() -> None:
    """Import LIBRARIES, without a use of Ray's generator of random numbers.

    Every class that becomes an actor draws a number where it is defined, and Ray's libraries define
    some. Here the operating system draws it.
    """
    import importlib
    from types import SimpleNamespace

    import ray.actor as definitions

    kind = definitions.ActorClassID
    drawing = SimpleNamespace(from_random=lambda: kind(os.urandom(kind.size())))
    definitions.ActorClassID = drawing
    try:
        for name in LIBRARIES:
            importlib.import_module(name)
    finally:
        definitions.ActorClassID = kind


def forked_ids_differ() -> bool:
    """Whether two processes forked now would get different numbers from Ray's generator."""
    from ray import JobID, PlacementGroupID

    drawn = []
    for _ in range(2):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, PlacementGroupID.of(JobID.from_int(1)).binary())
            os._exit(0)
        os.close(writing)
        with open(reading, "rb") as stream:
            drawn.append(stream.read())
        os.waitpid(child, 0)
    return drawn[0] != drawn[1]


def _fork_for(connection: socket.socket) -> dict[str, object] | None:
    """Fork for one caller; what it wants, in the child."""
    connection.settimeout(10.0)
    try:
        head, descriptors, _, _ = socket.recv_fds(connection, _LENGTH_BYTES, 3)
        with connection.makefile("rb") as stream:
            wanted: dict[str, object] = json.loads(stream.read(int.from_bytes(head, "big")))
        child = os.fork()
    except (OSError, ValueError) as error:
        print(f"a process could not be started: {error}", file=sys.stderr)
        return None
    if child == 0:
        os.setsid()  # Ray kills a worker's whole process group
        for target, descriptor in enumerate(descriptors):
            os.dup2(descriptor, target)
    for descriptor in descriptors:
        os.close(descriptor)
    if child == 0:
        return wanted
    connection.sendall(b"\1")
    return None


def run_script_as(script: list[str], directory: str, environment: dict[str, str]) -> None:
    """Run a script as a process would that had been started for it."""
    import random
    import runpy

    import numpy

    os.chdir(directory)
    before = _python_path()
    os.environ.clear()
    os.environ.update(environment)
    sys.path = [
        str(Path(script[0]).parent),
        *_python_path(),
        *(entry for entry in sys.path if entry not in before),
    ]
    sys.argv = script
    random.seed()
    numpy.random.seed()
    runpy.run_path(script[0], run_name="__main__")


def _python_path() -> list[str]:
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    if sys.argv[1] == _SERVE:
        found = serve(Path(sys.argv[2]))
        if found is not None:
            run_script_as(**found)  # type: ignore[arg-type]
    else:
        main()
