"""clusters/slurm.sbatch on a real Slurm of two nodes, for two users."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support import ROOT
from tests.support.hosts import needing
from tests.support.slurm import Slurm, missing_programs, start_slurm

JOB = f"--gpus-per-node=0 --cpus-per-task=1 {ROOT}/clusters/slurm.sbatch study.yaml --no-preflight"

pytestmark = needing(missing_programs())


@pytest.fixture(scope="module")
def slurm(small_streets: Path) -> Iterator[Slurm]:
    """Yield a Slurm of two nodes, with a data set that its users can read."""
    with start_slurm() as started:
        shutil.copytree(small_streets, started.shared / "data")
        subprocess.run(["chmod", "-R", "a+rX", started.shared / "data"], check=True)
        yield started


def write_study(slurm: Slurm, user: str, epochs: int, workers: int) -> None:
    """Write a study of one trial to a user's home folder."""
    study = {
        "study": "slurm",
        "base": {
            "data": {"dataset": str(slurm.shared / "data"), "crop": [32, 32]},
            "model": {"backbone": "dfnet1", "channels": 8, "flows": []},
            "training": {"epochs": epochs, "batch": 2, "learning_rate": 0.001},
            "evaluation": {"every": epochs},
        },
        "variants": {"strong": {}},
        "resources": {"workers": workers, "cpus_per_worker": 1},
    }
    (slurm.shared / user / "study.yaml").write_text(yaml.safe_dump(study))


def test_study_trains_on_two_nodes(slurm: Slurm) -> None:
    write_study(slurm, "alice", epochs=1, workers=2)
    token = slurm.shared / "alice" / ".ray" / "auth_token"
    slurm.run("alice", "mkdir -p .ray && echo 0123456789abcdef0123456789abcdef > .ray/auth_token")
    token.chmod(0o644)
    job = slurm.submit("alice", JOB)
    assert slurm.wait(job) == "COMPLETED", slurm.log("alice", job)
    assert "strong: finished" in slurm.log("alice", job)
    assert "others could read" in slurm.log("alice", job)
    assert token.stat().st_mode & 0o777 == 0o600


def wait_for_worker_log(slurm: Slurm, job: str, text: str) -> None:
    """Wait until the log of bob's worker contains a text while his job runs."""
    end = time.monotonic() + 800
    while text not in worker_log(slurm):
        assert slurm.state(job) in ("PENDING", "RUNNING"), slurm.log("bob", job)
        assert time.monotonic() < end, slurm.log("bob", job)
        time.sleep(0.5)


def worker_log(slurm: Slurm) -> str:
    """Return the log of bob's worker."""
    logs = (slurm.shared / "bob" / "storage").rglob("worker-0.log")
    return "".join(path.read_text() for path in logs)


def test_jobs_of_a_second_user_write_checkpoints_before_they_end_and_resume(slurm: Slurm) -> None:
    write_study(slurm, "bob", epochs=2000, workers=1)
    job = slurm.submit("bob", f"--nodes=1 {JOB}")
    wait_for_worker_log(slurm, job, "epoch 2 of 2000")
    slurm.run("bob", f"scancel {job}")
    assert slurm.wait(job) == "CANCELLED"
    assert "strong: interrupted: stopped at a checkpoint" in slurm.log("bob", job)

    job = slurm.submit("bob", f"--nodes=1 {JOB}")
    wait_for_worker_log(slurm, job, "resumed after epoch")
    # Slurm sends this signal at the time that `--signal` sets, five minutes before the time limit.
    slurm.run("bob", f"scancel --batch --signal=INT {job}")
    assert slurm.wait(job) == "FAILED"
    assert "strong: interrupted: stopped at a checkpoint" in slurm.log("bob", job)
    assert "epoch 2000 of 2000" not in worker_log(slurm)
    for node in slurm.nodes:
        assert not node.execute("sh", "-c", "ls -d /tmp/ray-*").stdout


def test_time_limit_that_is_too_short_for_the_signal_is_explained(slurm: Slurm) -> None:
    write_study(slurm, "alice", epochs=2000, workers=1)
    short = slurm.submit("alice", f"--time=4 --nodes=1 {JOB}")  # Slurm sends the signal
    early = slurm.submit("alice", f"--nodes=1 {JOB}")
    end = time.monotonic() + 60
    # Ray is about to start.
    while not any(node.execute("ls", f"/tmp/ray-{early}").stdout for node in slurm.nodes):
        assert time.monotonic() < end, slurm.log("alice", early)
        time.sleep(0.1)
    slurm.run("alice", f"scancel --batch --signal=INT {early}")
    for job in (early, short):
        assert slurm.wait(job) == "FAILED"
        assert (
            "s after the start. Unless you sent it: Slurm sends it 5 minutes before"
            in slurm.log("alice", job)
        )
    assert "opening the data" not in slurm.log("alice", early)
    assert "ExitCode=2:0" in slurm.run("alice", f"scontrol show job --oneliner {early}")
