"""Starts Ray's worker processes quickly, by forking a server that has imported the libraries.

    python -S -I fork_server.py DIRECTORY SCRIPT ARGUMENT...

runs SCRIPT like `python SCRIPT ARGUMENT...`: in its own process, with the caller's environment,
working directory and output, but without the seconds that importing torch, Ray and others takes.
The first call starts the server, which imports them, listens on a socket in DIRECTORY for requests
to fork, and ends with the raylet. Forked processes share only unmodified memory pages. If no server
answers, SCRIPT runs in a new Python process.

The server does not import the project's own modules, because a trial must run their sources as of
its start. This file must load quickly, because every worker process loads it.

Ray identifies tasks and objects by random numbers. If Ray's generator had been used in the server,
all forked processes would continue with the same numbers, and one would read an object that another
stored under the same id. `import_libraries` avoids using it, and a server whose children draw equal
numbers refuses to serve.
"""

import fcntl
import json
import os
import socket
import sys
import time
from pathlib import Path

# Modules that the processes of Ray and of the trials import.
LIBRARIES = (
    "ray.train.torch",
    "ray.train.v2._internal.execution.controller",
    "ray.tune",
    "torch._dynamo",  # imported by the constructor of every optimizer
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
_REFUSED = "refused"  # a file next to the socket: processes cannot be forked on this machine
_RAYLET = "RAY_RAYLET_PID"  # environment variable of every process that a raylet starts
_LENGTH_BYTES = 8
_START_SECONDS = 60.0  # for importing the libraries on a busy machine


def main() -> None:
    """Run SCRIPT in a child of the server, or else in a new Python process."""
    directory, script = Path(sys.argv[1]), sys.argv[2:]
    try:
        _request_fork(_connect(directory), script)
    except OSError:
        os.execv(sys.executable, [sys.executable, *script])


def _connect(directory: Path) -> socket.socket:
    """Connect to the server, after starting it if there is none. Raises OSError."""
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
            _exec_server(directory)
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end and not refused.exists():
            connection = _try_to_connect(directory)
            if connection is not None:
                return connection
            time.sleep(0.02)
    raise TimeoutError("no server: importing the libraries took too long, or it refused to serve")


def _try_to_connect(directory: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(directory / "socket"))
    except OSError:  # the socket does not exist yet, or its server was killed
        connection.close()
        return None
    return connection


def _exec_server(directory: Path) -> None:
    """Replace this process by the server, in a session of its own."""
    os.setsid()
    output = os.open(directory / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    # -P: keeps the directory of this file off sys.path.
    os.execv(sys.executable, [sys.executable, "-P", __file__, _SERVE, str(directory)])


def _request_fork(connection: socket.socket, script: list[str]) -> None:
    """Let a forked child take over this process's stdio, cwd and environment. Raises OSError."""
    request = {"script": script, "directory": os.getcwd(), "environment": dict(os.environ)}
    content = json.dumps(request).encode()
    with connection:
        socket.send_fds(connection, [len(content).to_bytes(_LENGTH_BYTES, "big")], [0, 1, 2])
        connection.sendall(content)
        if not connection.recv(1):
            raise ConnectionError("the server could not fork")


def serve(directory: Path) -> dict[str, object] | None:
    """Import the libraries, then fork a child for each request.

    Returns the request in a child, and None in the server when the raylet has ended.
    """
    import gc
    import shutil
    import signal

    import_libraries()
    if not forked_ids_differ():
        print("processes forked here would use the same ids for Ray's objects", file=sys.stderr)
        (directory / _REFUSED).touch()
        return None
    gc.collect()
    gc.freeze()  # a garbage collection in a child would write to all shared pages
    path = directory / "socket"
    path.unlink(missing_ok=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children need not be waited for
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
                request = _fork_for(connection)
            if request is not None:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                return request
    shutil.rmtree(directory, ignore_errors=True)
    return None


def import_libraries() -> None:
    """Import LIBRARIES without using Ray's random number generator.

    Each definition of an actor class draws an id, and Ray's libraries define some. Here the ids
    come from the operating system.
    """
    import importlib
    from types import SimpleNamespace

    import ray.actor as definitions

    original = definitions.ActorClassID
    replacement = SimpleNamespace(from_random=lambda: original(os.urandom(original.size())))
    definitions.ActorClassID = replacement
    try:
        for name in LIBRARIES:
            importlib.import_module(name)
    finally:
        definitions.ActorClassID = original


def forked_ids_differ() -> bool:
    """Whether two processes forked now would draw different ids from Ray's generator."""
    from ray import JobID, PlacementGroupID

    ids = []
    for _ in range(2):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, PlacementGroupID.of(JobID.from_int(1)).binary())
            os._exit(0)
        os.close(writing)
        with open(reading, "rb") as stream:
            ids.append(stream.read())
        os.waitpid(child, 0)
    return ids[0] != ids[1]


def _fork_for(connection: socket.socket) -> dict[str, object] | None:
    """Receive a request and fork. Return the request in the child, None in the server."""
    connection.settimeout(10.0)
    try:
        head, descriptors, _, _ = socket.recv_fds(connection, _LENGTH_BYTES, 3)
        with connection.makefile("rb") as stream:
            request: dict[str, object] = json.loads(stream.read(int.from_bytes(head, "big")))
        child = os.fork()
    except (OSError, ValueError) as error:
        print(f"cannot fork a process: {error}", file=sys.stderr)
        return None
    if child == 0:
        os.setsid()  # a new process group, because Ray kills a worker's whole group
        for target, descriptor in enumerate(descriptors):
            os.dup2(descriptor, target)
    for descriptor in descriptors:
        os.close(descriptor)
    if child == 0:
        return request
    connection.sendall(b"\1")
    return None


def run_script_as(script: list[str], directory: str, environment: dict[str, str]) -> None:
    """Run a script as if this process had been started for it."""
    import random
    import runpy

    import numpy

    os.chdir(directory)
    servers_path = _python_path()
    os.environ.clear()
    os.environ.update(environment)
    sys.path = [
        str(Path(script[0]).parent),
        *_python_path(),
        *(entry for entry in sys.path if entry not in servers_path),
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
        request = serve(Path(sys.argv[2]))
        if request is not None:
            run_script_as(**request)  # type: ignore[arg-type]
    else:
        main()
