"""clusters/slurm.sbatch on this machine as its only node, with stand-ins for Slurm's commands."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def test_a_job_whose_time_is_up_checkpoints_and_the_next_one_goes_on(
    small_streets: Path, tmp_path: Path
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    # What follows srun's own options is run on each node of the job.
    _program(programs / "srun", 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"')
    _program(programs / "scontrol", "hostname")
    _program(programs / "getent", "echo 127.0.0.1 STREAM localhost")
    study = tmp_path / "study.yaml"
    study.write_text(
        yaml.safe_dump(
            {
                "study": "slurm",
                "base": {
                    "data": {"dataset": str(small_streets), "crop": [32, 32]},
                    "model": {"backbone": "dfnet1", "flows": []},
                    "training": {"epochs": 40, "batch": 2},
                    "evaluation": {"every": 40},
                },
                "variants": {"strong": {}},
                "resources": {"node_cache": str(tmp_path / "cache")},
            }
        )
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        name: value
        for name, value in os.environ.items()
        if "RAY" not in name and "MLFLOW" not in name
    }
    environment |= {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "ENVIRONMENT": sys.prefix,
        "STORAGE": str(tmp_path / "storage"),
        "PYTHONPATH": str(PROJECT),
        "SLURM_JOB_ID": str(port),
        "SLURM_JOB_NODELIST": "this",
        "SLURM_NNODES": "1",
        "SLURM_CPUS_PER_TASK": "1",
    }
    command = ["bash", str(PROJECT / "clusters" / "slurm.sbatch"), str(study), "--no-canary"]
    with (tmp_path / "job.log").open("w") as log:
        job = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)

        def log_of_the_trial() -> str:
            return "".join(p.read_text() for p in tmp_path.rglob("worker-0.log"))

        end = time.monotonic() + 180
        while "epoch 2 of 40" not in log_of_the_trial():
            assert job.poll() is None, (tmp_path / "job.log").read_text()[-3000:]
            assert time.monotonic() < end, (tmp_path / "job.log").read_text()[-3000:]
            time.sleep(0.5)
        job.send_signal(signal.SIGINT)
        assert job.wait(timeout=120) == 130, (tmp_path / "job.log").read_text()[-3000:]
    assert "stopping" in (tmp_path / "job.log").read_text()
    assert "checkpoint within epoch" in log_of_the_trial()

    again = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert "resumed after epoch" in log_of_the_trial()


def _program(path: Path, lines: str) -> None:
    path.write_text(f"#!/usr/bin/env bash\n{lines}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
