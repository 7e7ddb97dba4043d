"""Whether a Ray cluster answers at an address, in seconds: Ray itself tries for minutes."""

import os
import socket
from urllib.parse import urlsplit

import grpc  # type: ignore[import-untyped]

from orchestrator.address import UnreachableError

SECONDS = 5.0


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
