"""`python -m orchestrator.server --replica s3://BUCKET/tracking/NAME`: the tracking server.

Serves MLflow over one SQLite file, which Litestream replicates to a bucket within about a second. A
new machine first restores the file from there; see `orchestrator.tracking.replica`.
"""

import argparse
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

from rich.console import Console

from orchestrator.console import InputError, run_command, say, warn
from orchestrator.tracking.replica import (
    InUseError,
    Replica,
    ReplicaError,
    litestream,
    litestream_environment,
    litestream_url,
)

_STOP_SECONDS = 30
# Moments of the last two weeks can be restored.
_SNAPSHOT = {"interval": "24h", "retention": "336h"}


def main(
    arguments: Sequence[str] | None = None, prog: str = "python -m orchestrator.server"
) -> int:
    """Run the command until it is terminated. Return 0 then, 1 if MLflow or Litestream ended,
    2 if another machine uses the replica."""
    options = _parser(prog).parse_args(arguments)
    return run_command(lambda console: _serve(options, console))


def _serve(options: argparse.Namespace, console: Console) -> int:
    directory = Path(options.directory).expanduser().resolve()
    file = directory / "mlflow.db"
    command = [sys.executable, "-m", "mlflow", "server", "--no-serve-artifacts"]
    command += ["--host", options.host, "--port", str(options.port)]
    command += ["--workers", str(options.workers), "--backend-store-uri", f"sqlite:///{file}"]
    command += ["--default-artifact-root", options.artifacts, *options.mlflow_options]
    return serve(Replica(options.replica), directory, command, console, upgrade=True)


def serve(
    replica: Replica,
    directory: Path,
    command: Sequence[str],
    console: Console,
    upgrade: bool = False,
) -> int:
    """Run a server of `directory/mlflow.db` and its replication until SIGTERM or Ctrl-C.

    command: the server. upgrade: whether to create or upgrade MLflow's tables first. Returns 0
    after a stop, 1 if a process ended. Raises InUseError if another machine uses the replica.
    """
    stop = threading.Event()
    previous = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        with _only_user_of(directory) as lock:
            generation = _prepare(replica, directory, console)
            if upgrade:
                _upgrade_tables(directory)
            with _replicated(replica, directory, generation, lock) as replication:
                return _supervise(replica, generation, command, replication, lock, stop, console)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _prepare(replica: Replica, directory: Path, console: Console) -> str:
    """Provide the newest state of `mlflow.db`; return the generation that this machine writes."""
    file, mark = directory / "mlflow.db", directory / "generation"
    own = mark.read_text() if mark.exists() else ""
    newest = replica.newest()
    if newest and newest[0] == own and file.exists():
        say(console, f"continuing {replica.uri}, generation {own}")
        replica.renew(own)
        return own
    if file.exists() and newest:
        _set_aside(directory, own, console)
    generation = replica.begin(own)
    shutil.rmtree(directory / ".mlflow.db-litestream", ignore_errors=True)  # of its last generation
    try:
        if not file.exists():
            new = directory / "mlflow.db.restored"
            for path in (new, directory / "mlflow-version"):
                path.unlink(missing_ok=True)
            if replica.restore(new, without=generation):
                mark.write_text(generation)
                new.rename(file)
                say(console, f"restored {file} from {replica.uri}")
        mark.write_text(generation)
    except BaseException:
        with suppress(OSError):
            replica.forget(generation)
        raise
    return generation


def _set_aside(directory: Path, own: str, console: Console) -> None:
    """Rename a database that another machine's generation has superseded, with its WAL."""
    target = directory / f"outdated-{own or 'unknown'}"
    target.mkdir(exist_ok=True)
    for path in (*directory.glob("mlflow.db*"), *directory.glob(".mlflow.db-litestream")):
        path.rename(target / path.name)
    warn(console, f"the replica went on with another machine; the old database is in {target}")


def _upgrade_tables(directory: Path) -> None:
    """Create MLflow's tables, or upgrade them unless this version of MLflow has done so before.

    Whatever a failed upgrade leaves, the replica still has the moment before it.
    """
    mark, version = directory / "mlflow-version", metadata.version("mlflow")
    if mark.exists() and mark.read_text() == version:
        return
    uri = f"sqlite:///{directory / 'mlflow.db'}"
    done = subprocess.run([sys.executable, "-m", "mlflow", "db", "upgrade", uri])
    if done.returncode != 0:
        raise ReplicaError(f"`mlflow db upgrade {uri}` failed with status {done.returncode}")
    mark.write_text(version)


@contextmanager
def _only_user_of(directory: Path) -> Iterator[int]:
    """Lock the directory; yields the lock, which child processes inherit and hold until they end.

    Raises InputError if a server, or what is left of one, is using the directory.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"--directory {directory} is in use by another server; stop that one first"
            ) from None
        yield file.fileno()


@contextmanager
def _replicated(
    replica: Replica, directory: Path, generation: str, lock: int
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run Litestream; at the end, let it send the last changes and mark the generation as ended."""
    file = directory / "mlflow.db"
    target = {"url": litestream_url(replica.uri, generation), "auto-recover": True}
    database = {"path": str(file), "replica": target}
    config = directory / "litestream.yml"
    config.write_text(json.dumps({"snapshot": _SNAPSHOT, "dbs": [database]}))
    command = [litestream(), "replicate", "-config", str(config)]
    environment = litestream_environment()
    # Before the server runs, so that a new generation is never empty for long.
    if file.exists() and not _send(command, environment):
        raise ReplicaError(f"litestream cannot write to {replica.uri}; its output says why")
    process = _start(command, environment, lock)
    try:
        yield process
    finally:
        _end(process)
        # Litestream sends the last changes when it ends, but not if it has just started.
        if _send(command, environment):
            with suppress(ReplicaError):
                replica.record(generation, "ended")


def _send(command: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Send all changes to the bucket; return whether that succeeded in time."""
    with suppress(subprocess.TimeoutExpired):
        done = subprocess.run([*command, "-once"], env=environment, timeout=_STOP_SECONDS)
        return done.returncode == 0
    return False


def _supervise(
    replica: Replica,
    generation: str,
    command: Sequence[str],
    replication: "subprocess.Popen[bytes]",
    lock: int,
    stop: threading.Event,
    console: Console,
) -> int:
    """Run the server; renew the generation until a stop or the end of a process."""
    replica.renew(generation)  # the restore may have taken minutes
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **os.environ}
    server = _start(command, environment, lock)
    renewed = time.monotonic()
    try:
        while not stop.wait(0.5):
            for name, process in (("litestream", replication), ("the server", server)):
                if process.poll() is not None:
                    warn(console, f"{name} ended with exit status {process.returncode}")
                    return 1
            if time.monotonic() - renewed < replica.patience / 3:
                continue
            renewed = time.monotonic()
            try:
                replica.renew(generation)
            except InUseError:
                raise
            except ReplicaError as error:
                warn(console, str(error))
        return 0
    finally:
        _end(server)


def _start(
    command: Sequence[str], environment: Mapping[str, str], lock: int
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command, env=environment, process_group=0, pass_fds=(lock,))


def _end(process: "subprocess.Popen[bytes]") -> int:
    """Terminate a process and its children; return its exit status."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        return process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Serve MLflow over one SQLite file that is replicated to a bucket. A new "
        "machine restores the file from there; a second one is refused while the first one runs.",
    )
    parser.add_argument(
        "--replica",
        required=True,
        metavar="URI",
        help="directory of the replica, such as s3://BUCKET/tracking/NAME; one for each server",
    )
    parser.add_argument(
        "--artifacts",
        required=True,
        metavar="URI",
        help="directory of the runs' artifacts, such as s3://BUCKET/artifacts",
    )
    parser.add_argument(
        "--directory",
        default="tracking",
        metavar="DIR",
        help="local directory of the SQLite file (default: ./tracking)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=5000, help="port to listen on (default: 5000)")
    parser.add_argument(
        "--workers", type=int, default=2, help="processes of the server (default: 2)"
    )
    parser.add_argument(
        "mlflow_options",
        nargs="*",
        metavar="-- OPTION",
        help="further options of `mlflow server`, after --",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
