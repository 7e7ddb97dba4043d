"""What Ray needs on this machine to start a cluster: a short directory, shared memory, a token.

Ray's defaults fail with a long TMPDIR, as on Slurm, with a `/tmp/ray` of another user, without a
home directory, and in containers with little shared memory.
"""

import os
import resource
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipelines.errors import UserError

# The longest path of a socket, and the longest that Ray makes below its directory.
_SOCKET_LIMIT = 107
_SOCKET = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.1"
_LONGEST = _SOCKET_LIMIT - len(_SOCKET)

_SHARED_MEMORY = Path("/dev/shm")
_OBJECT_STORE_BYTES = 256 << 20

# Ray's processes map files of several GB, and write logs and sockets.
_LEAST_ADDRESS_SPACE = 64 << 30
_LEAST_FILE_SIZE = 1 << 30
_LEAST_FREE = 64 << 20
_LEAST_PROCESSES = 1024

# Python's `multiprocessing`, which Ray's dashboard uses, makes sockets in the temporary directory.
_LONGEST_TEMPORARY = _SOCKET_LIMIT - len("/pymp-12345678/listener-12345678")


class LocalNodeError(UserError, OSError):
    """Ray cannot start on this machine; the message says why and what to do."""


def local_options() -> dict[str, Any]:
    """Return options of `ray.init` for a cluster on this machine; set its token if necessary.

    Raises LocalNodeError if there is no directory for Ray's files.
    """
    _provide_token()
    directory = ray_directory()
    options: dict[str, Any] = {} if directory == _ray_default() else {"_temp_dir": str(directory)}
    if _free_shared_memory() < 2 * _OBJECT_STORE_BYTES:
        # Trials exchange small objects only, so files on a disk serve as well.
        options |= {
            "object_store_memory": _OBJECT_STORE_BYTES,
            "_plasma_directory": str(directory),
        }
    return options


@contextmanager
def short_temporary_directory() -> Iterator[dict[str, str]]:
    """Within this context, TMPDIR is short enough for the sockets of Ray's dashboard. Yield the
    environment variables with which the workers keep the user's; none if it is short.

    Raises LocalNodeError if there is no such directory.
    """
    given = os.environ.get("TMPDIR", "")
    if len(given) <= _LONGEST_TEMPORARY:
        yield {}
        return
    directory = ray_directory()
    os.environ["TMPDIR"] = str(directory.parent if directory.name == "ray" else directory)
    try:
        yield {"TMPDIR": given}
    finally:
        os.environ["TMPDIR"] = given


def ray_directory() -> Path:
    """Return a directory for Ray's files that is short enough for sockets and can be written."""
    directories = [_ray_default()] if "RAY_TMPDIR" in os.environ else list(_candidates())
    for directory in directories:
        if len(str(directory)) <= _LONGEST and _is_usable(directory):
            return directory
    tried = ", ".join(map(str, directories))
    raise LocalNodeError(
        f"Ray cannot use {tried}: its directory must be writable and its path at most {_LONGEST} "
        "characters long. Set RAY_TMPDIR to a shorter or writable parent directory"
    )


def low_limits() -> list[str]:
    """Return what on this machine may have prevented Ray's start, each with what to do."""
    low = []
    space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if 0 <= space < _LEAST_ADDRESS_SPACE:
        low.append(
            f"this shell limits the address space to {space >> 20} MiB, which is too little for "
            "Ray: run `ulimit -v unlimited` before"
        )
    size = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if 0 <= size < _LEAST_FILE_SIZE:
        low.append(
            f"this shell limits the size of files to {size >> 20} MiB, which is too little for "
            "Ray: run `ulimit -f unlimited` before"
        )
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if 0 <= processes < _LEAST_PROCESSES:
        low.append(
            f"this shell limits this user to {processes} processes and threads, which is too few "
            "for Ray: raise it with `ulimit -u` before"
        )
    with suppress(OSError, LocalNodeError):
        directory = ray_directory()
        existing = next(path for path in (directory, *directory.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        if free < _LEAST_FREE:
            low.append(
                f"{existing} has {free >> 20} MiB of free space left: make room there, or set "
                "RAY_TMPDIR to another parent directory"
            )
    return low


def _ray_default() -> Path:
    """Return the directory that Ray itself would use."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray"


def _candidates() -> Iterator[Path]:
    yield _ray_default()
    yield Path("/tmp/ray")
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "ray"
    for parent in ("/tmp", "/var/tmp"):
        yield Path(parent) / f"ray-{os.getuid()}"


def _is_usable(directory: Path) -> bool:
    """Whether this user can write the directory, or Ray can create it."""
    if directory.name != "ray":  # the fallbacks have names that others could take
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            if directory.stat().st_uid != os.getuid():
                return False
        except OSError:
            return False
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _free_shared_memory() -> int:
    """Return the free bytes of `/dev/shm`; 0 if it is missing or cannot be written."""
    try:
        if not os.access(_SHARED_MEMORY, os.W_OK):
            return 0
        return shutil.disk_usage(_SHARED_MEMORY).free
    except OSError:
        return 0


def _provide_token() -> None:
    """Provide a token for a cluster of this command: in the file where Ray looks for it, or for
    this command only, where there is no home directory.

    Ray itself would write the file so that other users of the machine can read it, and with it run
    code as this user.
    """
    if {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    home = Path(os.path.expanduser("~"))
    token = home / ".ray" / "auth_token"
    new = secrets.token_hex(32)
    if token.exists():
        with suppress(OSError):  # of another user
            token.chmod(0o600)
    elif not home.is_absolute() or home == Path("/") or not _wrote(token, new):
        os.environ["RAY_AUTH_TOKEN"] = new


def _wrote(token: Path, text: str) -> bool:
    """Write a new file for this user alone; return whether there is one now."""
    try:
        token.parent.mkdir(exist_ok=True)
        file = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:  # another command has just written it, or `.ray` is a file
        return token.exists()
    except OSError:
        return False
    with os.fdopen(file, "w") as stream:
        stream.write(text)
    return True
