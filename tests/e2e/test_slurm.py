"""clusters/slurm.sbatch on a host with stand-ins for Slurm's commands, as the job's only node.

The host is a namespace of its own: `ray symmetric-run` ends by stopping all of a machine's Ray.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"),
        reason="needs root, unshare and ip",
    ),
]


def test_trials_of_a_job_whose_time_is_up_write_checkpoints(
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
                    "training": {"epochs": 400, "batch": 2, "learning_rate": 0.001},
                    "evaluation": {"every": 400},
                },
                "variants": {"strong": {}},
                "resources": {"node_cache": str(tmp_path / "cache")},
            }
        )
    )
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o644)
    own = ("RAY_", "MLFLOW_")
    environment = {k: value for k, value in os.environ.items() if not k.startswith(own)}
    environment |= {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "ENVIRONMENT": sys.prefix,
        "STORAGE": str(tmp_path / "storage"),
        "PYTHONPATH": str(PROJECT),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "this",
        "SLURM_NNODES": "1",
        "SLURM_CPUS_PER_TASK": "1",
    }
    job = f"ip link set lo up; exec bash {PROJECT}/clusters/slurm.sbatch {study} --no-preflight"
    # A shell cannot trap what was ignored when it began, as in a background job.
    host = ["env", "--default-signal=INT", "unshare", "--net", "--mount", "--pid", "--fork"]
    host += ["--mount-proc", "--kill-child"]
    with (tmp_path / "job.log").open("w") as log:
        process = subprocess.Popen(
            [*host, "bash", "-c", job], env=environment, cwd=tmp_path, stdout=log, stderr=log
        )

    def said() -> str:
        return "".join(path.read_text() for path in tmp_path.rglob("worker-0.log"))

    def told() -> str:
        return (tmp_path / "job.log").read_text()

    try:
        end = time.monotonic() + 180
        while "epoch 2 of 400" not in said():
            assert process.poll() is None, told()[-3000:]
            assert time.monotonic() < end, told()[-3000:]
            time.sleep(0.5)
        # To the job's own shell, as `--signal=B:INT` has it.
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        os.kill(int(children), signal.SIGINT)
        assert process.wait(timeout=120) == 130, told()[-3000:]
    finally:
        process.kill()
        process.wait()
    assert token.stat().st_mode & 0o777 == 0o600
    assert "others could read" in told()
    assert "stopping" in told()
    assert "strong: stopped: held at a checkpoint" in told()
    assert "epoch 400 of 400" not in said()


def _program(path: Path, lines: str) -> None:
    path.write_text(f"#!/usr/bin/env bash\n{lines}\n")
    path.chmod(0o755)
