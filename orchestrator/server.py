"""`python -m orchestrator.server --replica s3://BUCKET/tracking/NAME`: the tracking server.

Serves MLflow over one SQLite file, which Litestream replicates to a bucket within about a second. A
new machine first restores the file from there; see `orchestrator.tracking.replica`.
"""

import argparse
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from orchestrator.console import InputError, run_command, say, warn
from orchestrator.tracking.replica import (
    InUseError,
    Replica,
    ReplicaError,
    litestream_environment,
    litestream_program,
    litestream_url,
)

_START_SECONDS, _STOP_SECONDS = 600, 60  # for a full copy at the start, and for each step of a stop
# Moments of the last two weeks can be restored.
_SNAPSHOT = {"interval": "24h", "retention": "336h"}


def main(
    arguments: Sequence[str] | None = None, prog: str = "python -m orchestrator.server"
) -> int:
    """Run the command until it is terminated. Return 0 then, 1 if the server ended by itself, 2 if
    another machine uses the replica."""
    options = server_parser(prog).parse_args(arguments)
    return run_command(lambda console: _serve(options, console))


def _serve(options: argparse.Namespace, console: Console) -> int:
    directory = Path(options.directory).expanduser().resolve()
    uri = f"sqlite:///{directory / 'mlflow.db'}"
    mlflow = [sys.executable, "-m", "mlflow"]
    server = [*mlflow, "server", "--backend-store-uri", uri, "--workers", str(options.workers)]
    server += ["--host", options.host, "--port", str(options.port), "--no-serve-artifacts"]
    server += ["--default-artifact-root", options.artifacts, *options.mlflow_options]
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    # Creates the tables, or upgrades them to this version of MLflow.
    script = f"{shlex.join([*mlflow, 'db', 'upgrade', uri])} && exec {shlex.join(server)}"
    return serve(Replica(options.replica), directory, ["sh", "-c", script], console)


def serve(replica: Replica, directory: Path, command: Sequence[str], console: Console) -> int:
    """Run a server of `directory/mlflow.db`, and its replication, until SIGTERM or Ctrl-C.

    command: the server. Returns 0 after a stop, 1 if the server or Litestream ended. Raises
    InUseError if another machine uses the replica.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with _only_user_of(directory) as lock:
        generation = _prepare(replica, directory, console)
        target = {"url": litestream_url(replica.uri, generation), "auto-recover": True}
        database = {"path": str(directory / "mlflow.db"), "replica": target}
        config = directory / "litestream.yml"
        config.write_text(json.dumps({"snapshot": _SNAPSHOT, "dbs": [database]}))
        replicate = [litestream_program(), "replicate", "-config", str(config)]
        # Before the server runs, so that a new generation is never empty for long.
        if (directory / "mlflow.db").exists() and not _send(replicate, _START_SECONDS):
            raise ReplicaError(f"litestream cannot write to {replica.uri}; its output says why")
        replica.renew(generation)  # the restore may have taken minutes
        process = subprocess.Popen(
            [*replicate, "-exec", shlex.join(command)],
            env=litestream_environment(),
            process_group=0,
            pass_fds=(lock,),
        )
        try:
            return _supervise(process, replica, generation, stop, console)
        finally:
            _end(process)
            # Litestream sends the last changes when it ends, but not if it has just started.
            with suppress(ReplicaError):
                if _send(replicate, _STOP_SECONDS):
                    replica.record(generation, "ended")


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
    mark.write_text(generation)
    if not file.exists():
        new = directory / "mlflow.db.restored"
        new.unlink(missing_ok=True)
        try:
            restored = replica.restore(new)
        except ReplicaError:
            replica.forget(generation)
            raise
        if restored:
            new.rename(file)
            say(console, f"restored {file} from {replica.uri}")
    return generation


def _set_aside(directory: Path, own: str, console: Console) -> None:
    """Rename a database that another machine's generation has superseded, with its WAL."""
    target = directory / f"outdated-{own or 'unknown'}-{time.strftime('%Y%m%dT%H%M%S')}"
    target.mkdir()  # never over an earlier one
    for path in (*directory.glob("mlflow.db*"), *directory.glob(".mlflow.db-litestream")):
        path.rename(target / path.name)
    warn(console, f"another machine continued the replica; the old database was moved to {target}")


@contextmanager
def _only_user_of(directory: Path) -> Iterator[int]:
    """Lock the directory; yields the lock, which Litestream inherits and holds until it ends.

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


def _supervise(
    process: "subprocess.Popen[bytes]",
    replica: Replica,
    generation: str,
    stop: threading.Event,
    console: Console,
) -> int:
    """Renew the generation until a stop or the end of the process."""
    renewed = time.monotonic()
    while not stop.wait(0.5):
        if process.poll() is not None:
            warn(console, f"the server ended with exit status {process.returncode}")
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


def _send(replicate: Sequence[str], seconds: float) -> bool:
    """Send all changes to the bucket; return whether that succeeded in time."""
    with suppress(subprocess.TimeoutExpired):
        command = [*replicate, "-once"]
        done = subprocess.run(command, env=litestream_environment(), timeout=seconds)
        return done.returncode == 0
    return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Terminate Litestream and the server, and wait until they have ended."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)


def server_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
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
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)"
    )
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
