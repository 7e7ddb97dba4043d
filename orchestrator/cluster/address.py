"""Checks the cluster address given by `--address`."""

import os
import socket
from urllib.parse import urlsplit

import grpc  # type: ignore[import-untyped]

from pipelines.errors import UserError

SECONDS = 5.0


class UnreachableError(UserError, ConnectionError):
    """No Ray cluster answers at the address."""


_RAY_CLIENT = (
    "with Ray Client the study would end with this terminal or a lost connection; use the "
    "dashboard's address (http://localhost:8265, through `ray dashboard cluster.yaml`), or on the "
    "cluster itself auto or HOST:PORT"
)


class RemoteError(UserError, RuntimeError):
    """A study cannot be submitted to the cluster."""


def is_remote(address: str | None) -> bool:
    """Whether an address is that of a dashboard, to which a study is submitted as a job.

    Raises RemoteError for an address of Ray Client.
    """
    if address is None:
        return False
    if address.startswith("ray://"):
        raise RemoteError(f"--address {address}: {_RAY_CLIENT}")
    return address.startswith(("http://", "https://"))


def check_address(address: str, seconds: float = SECONDS) -> None:
    """Raise UnreachableError unless a gRPC server, presumably Ray's, listens at `address`.

    `auto` and `local` pass, because Ray resolves them on this machine.
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
        return  # a cluster with TLS refuses the insecure connection below
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=seconds)
        except grpc.FutureTimeoutError:
            raise UnreachableError(
                f"--address {address}: the server at {host}, port {port} does not answer like Ray "
                f"(tried for {seconds:g} s); use the port that `ray start --head` printed, 6379 by "
                "default"
            ) from None


def _parse(address: str) -> tuple[str, int]:
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        if parts.scheme == "" and parts.hostname and parts.port:
            return parts.hostname, parts.port
    except ValueError:
        pass  # the port is not a number
    if parts.scheme in ("http", "https", "ray"):
        raise UnreachableError(
            f"--address {address}: this command must run on a machine of the cluster itself; use "
            "auto or HOST:PORT there, such as 10.0.0.5:6379, or omit --address (RAY_ADDRESS) to "
            "use this machine only"
        )
    raise UnreachableError(
        f"--address {address} is not a valid address; use HOST:PORT such as 10.0.0.5:6379, or auto"
    )
