"""What the operating system grants this process: memory and cores."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines import machine
from pipelines.machine import peak_resident_gib, reset_peak_memory


@pytest.mark.skipif(
    sys.platform != "linux",
    reason="no other system can reset the peak; trials there never share a process",
)
def test_peak_memory_is_that_since_the_reset() -> None:
    before = peak_resident_gib()
    array = np.ones(2**28, np.uint8)  # 0.25 GiB
    with_array = peak_resident_gib()
    assert with_array > before
    del array
    # The kernel counts in steps of a few pages per thread.
    assert peak_resident_gib() == pytest.approx(with_array, abs=0.01)
    reset_peak_memory()
    assert peak_resident_gib() < with_array - 0.2


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder for control groups, with a process that may use 8 cores in /a/b."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    membership = tmp_path / "cgroup"
    membership.write_text("4:memory:/elsewhere\n3:cpu,cpuacct:/a/b\n0::/a/b\n")
    monkeypatch.setattr(machine, "_CGROUP", membership)
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "cpu,cpuacct" / "a" / "b").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("quota", "cores"), [("max", 8), ("200000", 2), ("350000", 3), ("5000", 1)]
)
@pytest.mark.parametrize("folder", ["a/b", "a", "."])
def test_cores_are_those_of_the_tightest_control_group(
    groups: Path, folder: str, quota: str, cores: int
) -> None:
    (groups / folder / "cpu.max").write_text(f"{quota} 100000\n")
    assert machine.cores() == cores
    limit = f"the container or batch job grants {cores} of 8 cores"
    assert machine.core_limit() == (limit if cores < 8 else "")
    (groups / folder / "cpu.max").unlink()
    old = groups / "cpu,cpuacct" / folder
    (old / "cpu.cfs_quota_us").write_text(f"{quota.replace('max', '-1')}\n")
    (old / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.cores() == cores


def test_cores_of_a_real_control_group() -> None:
    group = Path(f"/sys/fs/cgroup/cpu/segmentation-test-{os.getpid()}")
    try:
        group.mkdir()
        (group / "cpu.cfs_quota_us").write_text("100000")
    except OSError as error:
        pytest.skip(f"control groups of version 1 cannot be made here: {error}")
    enter = f"echo $$ > {group}/cgroup.procs && exec {sys.executable} -c "
    code = "'from pipelines.machine import cores; print(cores())'"
    try:
        process = subprocess.run(["sh", "-c", enter + code], capture_output=True, text=True)
        assert process.stdout == "1\n", process.stderr
    finally:
        group.rmdir()
