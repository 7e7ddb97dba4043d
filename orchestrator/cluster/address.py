"""Checks the cluster address given by `--address`."""

import ipaddress
import json
import os
import socket
from queue import Empty, Queue
from threading import Thread
from typing import TypeGuard
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import grpc  # type: ignore[import-untyped]
import requests

from pipelines.errors import UserError
from pipelines.wording import cause, option

SECONDS = 5.0
# A dashboard's answer about its version has about 300 bytes.
_VERSION_BYTES = 1 << 16


class UnreachableError(UserError, ConnectionError):
    """No Ray cluster answers at the address."""


_RAY_CLIENT = (
    "with Ray Client the study would end with this terminal or a lost connection; use the "
    "dashboard's address (http://localhost:8265, through `ray dashboard cluster.yaml`), or on the "
    "cluster itself auto or HOST:PORT"
)


class RemoteError(UserError, RuntimeError):
    """A study cannot be submitted to the cluster."""


class ClusterFileError(UserError, ValueError):
    """A cluster file that cannot be read, or that does not describe a cluster to plan with."""


def given(address: str) -> str:
    """Return an address as the user gave it, by the option or in the environment."""
    if os.environ.get("RAY_ADDRESS") == address:
        return f"RAY_ADDRESS={address}"
    return f"{option('address')} {address}"


def is_cluster_file(address: str | None) -> TypeGuard[str]:
    """Whether an address names a cluster file instead of a cluster."""
    return address is not None and address.endswith((".yaml", ".yml"))


def check_only_planned(path: str, plan: bool) -> None:
    """Raise ClusterFileError if a study is to be trained on a file."""
    if not plan:
        raise ClusterFileError(
            f"{option('address')} {path} is a file, which only {option('plan')} accepts; run "
            f"`ray up {path}` and `ray dashboard {path}`, then use {option('address')} "
            "http://localhost:8265"
        )


def is_remote(address: str | None) -> bool:
    """Whether an address is that of a dashboard, to which a study is submitted as a job.

    Raises RemoteError for an address of Ray Client.
    """
    if address is None:
        return False
    if address.startswith("ray://"):
        raise RemoteError(f"{given(address)}: {_RAY_CLIENT}")
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
    except (OSError, UnicodeError) as error:  # UnicodeError: no host has such a name
        raise UnreachableError(
            f"{given(address)}: nothing answers at {host}, port {port} ({error}); "
            "`ray status --address HOST:PORT` on the cluster's head shows whether it runs there"
        ) from None
    if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return  # a cluster with TLS refuses the insecure connection below
    # Bypass the environment's proxy, as Ray does.
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"{host}:{port}", options) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=seconds)
        except grpc.FutureTimeoutError:
            raise UnreachableError(
                f"{given(address)}: the server at {host}, port {port} does not "
                "answer like Ray "
                f"(tried for {seconds:g} s); use the port that `ray start --head` printed, 6379 by "
                "default"
            ) from None


def check_dashboard(address: str, seconds: float = 4.0) -> None:
    """Raise RemoteError unless a Ray dashboard answers at a URL, or requires a token there.

    seconds: the time limit for the connection, and again for the answer. A proxy that the
    environment sets is bypassed for an address of this machine, such as a tunnel.
    """
    parts = urlsplit(address)
    try:
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        host, port = None, 0
    if not host:
        raise RemoteError(f"{given(address)}: no host; use a URL such as http://localhost:8265")
    if _is_loopback(host):
        for name in ("no_proxy", "NO_PROXY"):
            os.environ[name] = ",".join(filter(None, (os.environ.get(name), host)))
    proxy = None if proxy_bypass(host) else getproxies().get(parts.scheme)
    through = ""
    if proxy:
        parts = urlsplit(proxy if "://" in proxy else f"//{proxy}")
        through = f", the proxy that the environment sets; NO_PROXY={host} bypasses it"
        try:
            host, port = parts.hostname or "", parts.port or 80
        except ValueError as error:
            raise RemoteError(
                f"{given(address)}: the environment's proxy is unusable ({error}); "
                f"correct it, or bypass it with NO_PROXY={host}"
            ) from None
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except (OSError, UnicodeError) as error:
        raise RemoteError(
            f"{given(address)}: nothing answers at {host}, port {port} ({error}){through}"
        ) from None
    # In a thread, because the time limits of requests are for each part of an answer.
    answer: Queue[str] = Queue()
    Thread(target=lambda: answer.put(_dashboard_problem(address, seconds)), daemon=True).start()
    try:
        problem = answer.get(timeout=seconds)
    except Empty:
        problem = f"does not answer (tried for {seconds:g} s)"
    if problem:
        raise RemoteError(
            f"{given(address)}: the server at {host}, port {port} {problem}{through}; "
            "use the URL of a Ray dashboard, such as http://localhost:8265 through `ray dashboard "
            "cluster.yaml`"
        )


def _dashboard_problem(address: str, seconds: float) -> str:
    """Return how the server at a URL differs from a Ray dashboard; empty if it does not."""
    url = f"{address.rstrip('/')}/api/version"
    try:
        # As Ray's client: with the environment's proxies and certificates.
        with requests.get(url, timeout=seconds, stream=True) as response:
            if response.status_code in (401, 403):  # Ray's client has the token
                return ""
            if not response.ok:
                return f"is not a Ray dashboard (HTTP status {response.status_code})"
            text = next(response.iter_content(_VERSION_BYTES), b"")
    except requests.Timeout:
        return f"does not answer (tried for {seconds:g} s)"
    except (requests.RequestException, ValueError) as error:  # ValueError: of a redirect
        return f"does not answer like a Ray dashboard ({cause(error)})"
    try:
        version = json.loads(text)
        is_ray = isinstance(version, dict) and "ray_version" in version
    except (ValueError, RecursionError):
        is_ray = False
    return "" if is_ray else "is not a Ray dashboard (its answer has no version of Ray)"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _parse(address: str) -> tuple[str, int]:
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        if parts.scheme == "" and parts.hostname and parts.port:
            return parts.hostname, parts.port
    except ValueError:
        pass  # the port is not a number
    if parts.scheme in ("http", "https", "ray"):
        raise UnreachableError(
            f"{given(address)}: this command must run on a machine of the cluster "
            "itself; use "
            f"auto or HOST:PORT there, such as 10.0.0.5:6379, or omit {option('address')} "
            "(RAY_ADDRESS) to use this machine only"
        )
    raise UnreachableError(
        f"{given(address)} is not a valid address; use HOST:PORT such as "
        "10.0.0.5:6379, or auto; orchestrator.sweep also takes the URL of a dashboard, such as "
        "http://localhost:8265"
    )
