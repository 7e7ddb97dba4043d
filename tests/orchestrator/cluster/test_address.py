"""Addresses without a Ray cluster are rejected within seconds, with the cause."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import grpc
import pytest

from orchestrator.cluster.address import (
    RemoteError,
    UnreachableError,
    check_address,
    check_dashboard,
)
from orchestrator.evaluate import main
from orchestrator.sweep.__main__ import main as sweep
from tests.support.finished_run import FinishedRun


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Dashboard(BaseHTTPRequestHandler):
    """Answers one request as Ray's dashboard does."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/version" else 404)
        self.end_headers()
        self.wfile.write(b'{"version": "4", "ray_version": "2.60.0"}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web_port() -> Iterator[int]:
    """Return a port on which a dashboard answers."""
    with HTTPServer(("127.0.0.1", 0), Dashboard) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_closed_port_is_reported(closed_port: int) -> None:
    address = f"127.0.0.1:{closed_port}"
    with pytest.raises(UnreachableError, match=f"--address {address}: nothing answers at 127.0.0"):
        check_address(address)


def test_address_of_the_environment_is_named_so(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"127.0.0.1:{closed_port}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UnreachableError, match=f"^RAY_ADDRESS={address}: nothing answers"):
        check_address(address)


def test_server_that_is_not_ray_is_reported(web_port: int) -> None:
    with pytest.raises(UnreachableError, match=r"does not answer like Ray \(tried for 0.5 s\)"):
        check_address(f"127.0.0.1:{web_port}", seconds=0.5)


@pytest.mark.parametrize("address", ["WRONG", "host", "host:", "host:port", ":1"])
def test_malformed_address_is_rejected(address: str) -> None:
    with pytest.raises(UnreachableError, match="is not a valid address; use HOST:PORT"):
        check_address(address)


@pytest.mark.parametrize("address", ["http://host:8265", "https://host", "ray://host:10001"])
def test_client_and_dashboard_addresses_are_rejected(address: str) -> None:
    with pytest.raises(UnreachableError, match="on a machine of the cluster itself"):
        check_address(address)


def test_grpc_server_and_special_addresses_pass() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    check_address(f"127.0.0.1:{port}")
    server.stop(None).wait()
    check_address("auto")
    check_address("local")


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch, closed_port: int) -> str:
    """Set a proxy that does not run, as for all protocols; return HOST:PORT."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    return f"127.0.0.1, port {closed_port}"


def test_proxy_is_bypassed_for_grpc(proxy: str) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    check_address(f"127.0.0.1:{port}", seconds=2)
    server.stop(None).wait()


def test_proxy_is_bypassed_for_a_tunnel_and_otherwise_named(proxy: str, web_port: int) -> None:
    check_dashboard(f"http://localhost:{web_port}")
    check_dashboard(f"http://127.0.0.1:{web_port}")
    with pytest.raises(RemoteError, match=f"{proxy} .*NO_PROXY=head.example.org bypasses it"):
        check_dashboard("http://head.example.org:8265")


def test_dashboard_that_drops_packets_is_reported_in_time() -> None:
    began = time.monotonic()
    with full_backlog() as port, pytest.raises(RemoteError, match="timed out"):
        check_dashboard(f"http://127.0.0.1:{port}", seconds=0.5)
    assert time.monotonic() - began < 30  # the system's own limit is minutes
    with pytest.raises(RemoteError, match="no host"):
        check_dashboard("http://")


@pytest.mark.parametrize("host", ["head..node", f"{'a' * 64}.org"])
def test_impossible_hosts_are_reported(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnreachableError, match="nothing answers"):
        check_address(f"{host}:6379")
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(RemoteError, match="nothing answers"):
        check_dashboard(f"http://{host}:8265")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", "http://proxy:abc")
    with pytest.raises(RemoteError, match="the environment's proxy is unusable"):
        check_dashboard("http://10.0.0.1:8265")


@contextmanager
def answering(reply: bytes | None) -> Iterator[str]:
    """Yield the URL of a server that answers requests with these bytes; None accepts connections
    and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as connections:

        def serve() -> None:
            with suppress(OSError):  # the server is closed
                while True:
                    connection = connections.enter_context(server.accept()[0])
                    if reply is not None and connection.recv(1 << 16):
                        connection.sendall(reply)
                        connection.shutdown(socket.SHUT_RDWR)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_answer_that_never_ends_is_reported_in_time() -> None:
    """A server that sends a header each moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            with suppress(OSError), server.accept()[0] as connection:
                for _ in range(100):
                    connection.sendall(b"X-Waiting: yes\r\n")
                    time.sleep(0.1)

        thread = threading.Thread(target=drip)
        thread.start()
        began = time.monotonic()
        with pytest.raises(RemoteError, match="does not answer"):
            check_dashboard(f"http://127.0.0.1:{server.getsockname()[1]}", seconds=0.5)
        assert time.monotonic() - began < 5
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def http_reply(status: str, body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


STUDY = """\
study: a study
base: {data: {dataset: streets}}
variants: {strong: {set: {model: {flows: []}}}}
"""


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (None, "does not answer (tried for 4 s); use the URL of a Ray dashboard"),
        (b"", "does not answer like a Ray dashboard (Remote end closed"),
        (b"\x1b[2Jnoise\r\n\r\n", "does not answer like a Ray dashboard (?[2Jnoise)"),
        (http_reply("404 Not Found", b"<html>"), "is not a Ray dashboard (HTTP status 404)"),
        (http_reply("200 OK", b"<html>"), "is not a Ray dashboard (its answer has no version"),
        (http_reply("200 OK", b'"ray_version"'), "is not a Ray dashboard (its answer has no"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://[bad\r\nContent-Length: 0\r\n\r\n",
            "does not answer like a Ray dashboard (",
        ),
        (http_reply("200 OK", b"[" * 60_000), "is not a Ray dashboard (its answer has no"),
        (http_reply("200 OK", b"3"), "is not a Ray dashboard (its answer has no version of Ray)"),
        (http_reply("401 Unauthorized", b"no"), "Check that the cluster's token is in ~/.ray/auth"),
        (http_reply("403 Forbidden", b"no"), "Check that the cluster's token is in ~/.ray/auth_"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_server_that_is_no_dashboard_is_one_sentence(
    reply: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(STUDY)
    began = time.monotonic()
    with answering(reply) as address:
        options = ["--storage", "s3://bucket/storage", "--address", address]
        assert sweep([str(study), *options]) == 2
    assert time.monotonic() - began < 10
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"error: --address {address}: ")
    assert message in line
    assert ("auth_token" in line) == (reply is not None and reply[9:12] in (b"401", b"403"))


@contextmanager
def full_backlog() -> Iterator[int]:
    """Yield a port whose new connections are never answered: its queue is full."""
    with socket.socket() as server, ExitStack() as stack:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield int(server.getsockname()[1])


@pytest.mark.slow
def test_command_reports_unreachable_address(
    finished_run: FinishedRun, closed_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--dataset", str(finished_run.dataset), "--storage", str(finished_run.storage)]
    options += ["--address", f"127.0.0.1:{closed_port}"]
    assert main([str(finished_run.directory), *options]) == 2
    printed = capsys.readouterr().out
    assert f"--address 127.0.0.1:{closed_port}: nothing answers" in printed
