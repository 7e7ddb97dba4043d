"""clusters/slurm.sbatch with stubs for Slurm's commands, on a job of one node.

The job runs in its own namespaces because `ray symmetric-run` stops every Ray process of the
machine when it ends.
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


def test_trials_write_checkpoints_when_the_job_reaches_its_time_limit(
    small_streets: Path, tmp_path: Path
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    # The srun stub drops srun's options and runs the command that follows them.
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
    prefixes = ("RAY_", "MLFLOW_")
    environment = {k: value for k, value in os.environ.items() if not k.startswith(prefixes)}
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
    # A shell cannot trap a signal that was ignored when it started, as in a background job.
    host = ["env", "--default-signal=INT", "unshare", "--net", "--mount", "--pid", "--fork"]
    host += ["--mount-proc", "--kill-child"]
    with (tmp_path / "job.log").open("w") as log:
        process = subprocess.Popen(
            [*host, "bash", "-c", job], env=environment, cwd=tmp_path, stdout=log, stderr=log
        )

    def worker_log() -> str:
        return "".join(path.read_text() for path in tmp_path.rglob("worker-0.log"))

    def job_log() -> str:
        return (tmp_path / "job.log").read_text()

    try:
        end = time.monotonic() + 180
        while "epoch 2 of 400" not in worker_log():
            assert process.poll() is None, job_log()[-3000:]
            assert time.monotonic() < end, job_log()[-3000:]
            time.sleep(0.5)
        # Signal only the job's shell, as `--signal=B:INT` does.
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        os.kill(int(children), signal.SIGINT)
        assert process.wait(timeout=120) == 130, job_log()[-3000:]
    finally:
        process.kill()
        process.wait()
    assert token.stat().st_mode & 0o777 == 0o600
    assert "others could read" in job_log()
    assert "stopping" in job_log()
    assert "strong: interrupted: held at a checkpoint" in job_log()
    assert "epoch 400 of 400" not in worker_log()


def _program(path: Path, lines: str) -> None:
    path.write_text(f"#!/usr/bin/env bash\n{lines}\n")
    path.chmod(0o755)
