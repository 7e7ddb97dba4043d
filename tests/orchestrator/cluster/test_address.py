"""`check_address` rejects addresses without a Ray cluster within seconds and names the cause."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest

from orchestrator.cluster.address import UnreachableError, check_address
from orchestrator.evaluate import main
from tests.support.finished_run import FinishedRun


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def web_port() -> Iterator[int]:
    """Return a port on which an HTTP server answers, like a tracking server or a dashboard."""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_closed_port_is_reported(closed_port: int) -> None:
    address = f"127.0.0.1:{closed_port}"
    with pytest.raises(UnreachableError, match=f"{address}: nothing answers at 127.0.0.1, po"):
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


@pytest.mark.slow
def test_command_reports_unreachable_address(
    finished_run: FinishedRun, closed_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--dataset", str(finished_run.dataset), "--storage", str(finished_run.storage)]
    options += ["--address", f"127.0.0.1:{closed_port}"]
    assert main([str(finished_run.directory), *options]) == 2
    printed = capsys.readouterr().out
    assert f"--address 127.0.0.1:{closed_port}: nothing answers" in printed
