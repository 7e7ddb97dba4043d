"""Preflight runs that lose a worker, on a real Ray cluster on this machine."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.sweep_command import command, set_pace, train_workers, wait_for

STUDY = """\
study: preflight
base:
  data: {dataset: DATASET, crop: [32, 48]}
  model:
    network: "tests.support.paced_network:PacedNetwork"
    arguments: {pace: PACE}
  training: {epochs: 3, batch: 8, learning_rate: 0.01}
variants:
  strong: {}
resources: {workers: 2, cpus_per_worker: 0.5, node_cache: null}
"""


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """Yield a separate folder for temporary files; sockets in it would have too long paths."""
    with tempfile.TemporaryDirectory(prefix=f"{90 * 't'}-") as directory:
        yield Path(directory)


@pytest.mark.slow
def test_preflight_run_is_retried_once_after_losing_a_worker(
    tmp_path: Path, small_streets: Path, temporary: Path
) -> None:
    study = tmp_path / "study.yaml"
    text = STUDY.replace("DATASET", str(small_streets)).replace("PACE", str(tmp_path / "pace"))
    study.write_text(text)
    set_pace(study, 3600)
    output = tmp_path / "output.txt"
    settings = {"TMPDIR": str(temporary), "RAY_TMPDIR": "/tmp"}
    with output.open("w") as file:
        # Without timings for this device, --plan does preflight runs but trains no trial.
        process = subprocess.Popen(
            command(study, "--plan"), stdout=file, env={**os.environ, **settings}
        )
    try:
        wait_for(lambda: len(list(temporary.glob("preflight-*"))) == 2, 400)
        time.sleep(1)  # until the first steps run
        workers = train_workers(process.pid)
        assert len(workers) == 2
        assert "probe  strong" not in output.read_text()
        workers[1].kill()
        set_pace(study, 0)
        assert process.wait(400) == 0, output.read_text()
    finally:
        process.kill()
        process.wait()
    assert "probe  strong: " in output.read_text()
    assert "s per step" in output.read_text()
    assert not list(temporary.glob("preflight-*"))
    assert not list((tmp_path / "storage").glob("preflight-*"))
