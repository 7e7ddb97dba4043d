"""Addresses at which no Ray cluster answers are told apart, within seconds."""

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
    """Where a web server answers, as a tracking server or a dashboard does."""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_nothing_listens(closed_port: int) -> None:
    address = f"127.0.0.1:{closed_port}"
    with pytest.raises(UnreachableError, match=f"{address}: nothing answers at 127.0.0.1, po"):
        check_address(address)


def test_something_else_listens(web_port: int) -> None:
    with pytest.raises(UnreachableError, match=r"does not answer like Ray \(tried for 0.5 s\)"):
        check_address(f"127.0.0.1:{web_port}", seconds=0.5)


@pytest.mark.parametrize("address", ["WRONG", "host", "host:", "host:port", ":1"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(UnreachableError, match="is not a valid address; use HOST:PORT"):
        check_address(address)


@pytest.mark.parametrize("address", ["http://host:8265", "https://host", "ray://host:10001"])
def test_addresses_from_outside_the_cluster(address: str) -> None:
    with pytest.raises(UnreachableError, match="on a machine of the cluster itself"):
        check_address(address)


def test_what_may_be_ray_passes() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    check_address(f"127.0.0.1:{port}")
    server.stop(None).wait()
    check_address("auto")
    check_address("local")


def test_the_command_says_so(
    finished_run: FinishedRun, closed_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--dataset", str(finished_run.dataset), "--storage", str(finished_run.storage)]
    options += ["--address", f"127.0.0.1:{closed_port}"]
    assert main([str(finished_run.directory), *options]) == 2
    printed = capsys.readouterr().out
    assert f"--address 127.0.0.1:{closed_port}: nothing answers" in printed
