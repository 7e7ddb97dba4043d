"""What `--address` names, and what can be wrong with it."""

import os
import socket
from urllib.parse import urlsplit

import grpc  # type: ignore[import-untyped]

from pipelines.errors import UserError

SECONDS = 5.0


class UnreachableError(UserError, ConnectionError):
    """No Ray cluster answers; the message says what was tried and what would work."""


_RAY_CLIENT = (
    "Ray Client keeps the study's own process here, so that it ends with this terminal or a lost "
    "connection; use the dashboard's address (http://localhost:8265, through `ray dashboard "
    "cluster.yaml`), or on the cluster itself auto or host:port"
)


class RemoteError(UserError, RuntimeError):
    """A study cannot be sent to the cluster; the message says why and what would work."""


def is_remote(address: str | None) -> bool:
    """Whether an address is a cluster's dashboard, to which a study is sent as a job.

    Raises RemoteError for Ray Client's addresses.
    """
    if address is None:
        return False
    if address.startswith("ray://"):
        raise RemoteError(f"--address {address}: {_RAY_CLIENT}")
    return address.startswith(("http://", "https://"))


def check_address(address: str, seconds: float = SECONDS) -> None:
    """Raise UnreachableError unless something that may be Ray listens at `address`.

    `auto` and `local`, which name no place, pass: Ray looks for them on this machine alone.
    """
    if address in ("auto", "local"):
        return
    host, port = _parse(address)
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except OSError as error:
        raise UnreachableError(
            f"--address {address}: nothing answers at {host}, port {port} ({error}); "
            "`ray status --address HOST:PORT` on the cluster's head shows whether it runs there"
        ) from None
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return  # a plain connection would be refused by a cluster that is there
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=seconds)
        except grpc.FutureTimeoutError:
            raise UnreachableError(
                f"--address {address}: what listens at {host}, port {port} does not answer as Ray "
                f"does (tried for {seconds:g} s); the port is the one `ray start --head` printed, "
                "6379 unless chosen otherwise"
            ) from None


def _parse(address: str) -> tuple[str, int]:
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        if parts.scheme == "" and parts.hostname and parts.port:
            return parts.hostname, parts.port
    except ValueError:
        pass  # the port is no number
    if parts.scheme in ("http", "https", "ray"):
        raise UnreachableError(
            f"--address {address}: this command runs on a machine of the cluster itself; write "
            "auto or HOST:PORT there, such as 10.0.0.5:6379, or leave --address (RAY_ADDRESS) out "
            "to work on this machine alone"
        )
    raise UnreachableError(
        f"--address {address}: is no address; write HOST:PORT such as 10.0.0.5:6379, or auto"
    )
