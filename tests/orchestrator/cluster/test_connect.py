"""Joining and starting a cluster, without Ray's processes."""

import os
import sys

import pytest
from ray._private import services

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
