"""Joining and starting a cluster, without Ray's processes."""

import os
import platform
import sys

import pytest
import ray
from ray._private import services
from ray._private.utils import check_version_info
from ray.exceptions import AuthenticationError

from orchestrator.cluster import connect
from orchestrator.cluster.check_nodes import driver_warnings, installed_versions, node_problem
from orchestrator.cluster.connect import own_sessions


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, Ray needs its process group")
def test_signals_to_the_commands_group_do_not_reach_rays_processes() -> None:
    original = services.ConsolePopen
    with own_sessions():
        process = services.start_ray_process(["sleep", "60"], "test", fate_share=True).process
    try:
        assert os.getpgid(process.pid) == process.pid
        assert os.getsid(process.pid) != os.getsid(0)
    finally:
        process.kill()
        process.wait()
    assert services.ConsolePopen is original


def test_other_versions_of_ray_and_python_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = {"ray_version": "2.59.0", "python_version": "3.11.1"}

    def init(**_: object) -> None:
        check_version_info(cluster, "this node")  # as Ray does when it joins a cluster

    monkeypatch.setattr(connect, "check_address", lambda address: None)
    monkeypatch.setattr(connect.ray, "init", init)
    here = f"{ray.__version__} on Python {platform.python_version()}"
    with pytest.raises(connect.VersionMismatchError) as error:
        connect.connect("10.0.0.5:6379", {})
    assert "the cluster runs Ray 2.59.0 on Python 3.11.1, this command Ray " + here in str(
        error.value
    )


@pytest.mark.parametrize(
    "error", [ConnectionError("Failed to connect"), AuthenticationError("no token\nsee the docs")]
)
def test_refused_connection_names_the_token(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray raises either if a cluster with a token is joined without it."""

    def init(**_: object) -> None:
        raise error

    monkeypatch.setattr(connect, "check_address", lambda address: None)
    monkeypatch.setattr(connect.ray, "init", init)
    with pytest.raises(connect.UnreachableError) as raised:
        connect.connect("10.0.0.5:6379", {})
    (line,) = str(raised.value).splitlines()
    assert line.endswith("copy that to ~/.ray/auth_token and set RAY_AUTH_MODE=token")


def test_dashboard_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises the last lines of its log."""

    def init(*_: object, **__: object) -> None:
        raise Exception(
            "\nThe last 20 lines of /tmp/ray/session_1/logs/dashboard.log (it contains the error "
            "message from the dashboard): \n2026-11-29 INFO head.py"
        )

    monkeypatch.setattr(connect.ray, "init", init)
    with pytest.raises(connect.ClusterStartError) as error:
        connect.connect(None, {})
    assert (
        "(its dashboard did not answer; its output is in /tmp/ray/session_1/logs/dashboard.log); "
        "rerun" in str(error.value)
    )


def test_missing_packages_and_other_versions_of_a_node_are_named() -> None:
    own = installed_versions()
    assert node_problem("10.0.0.7", own, own) == ""
    other = {**own, "torch": "1.0", "numpy": "1.0"}
    del other["kornia"], other["pyarrow"]
    problem = node_problem("10.0.0.7", other, own)
    assert "node 10.0.0.7 lacks kornia, pyarrow and has torch 1.0 instead of" in problem
    assert "numpy" not in problem


def test_missing_resource_of_drivers_is_reported() -> None:
    (warning,) = driver_warnings([{"CPU": 4.0}, {"CPU": 4.0}])
    assert """start the head with --resources='{"trial_driver":1000000}'""" in warning
    assert not driver_warnings([{"CPU": 4.0}])
    assert not driver_warnings([{"CPU": 4.0, "trial_driver": 1e6}, {"CPU": 4.0}])
