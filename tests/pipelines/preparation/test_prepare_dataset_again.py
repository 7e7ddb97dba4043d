"""Preparing again, at the same time, and after an interruption."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.data.dataset import open_dataset
from pipelines.data.manifest import DatasetError
from pipelines.preparation import prepare_dataset
from pipelines.preparation.embedded import prepare_streets
from pipelines.preparation.inspection import verify
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.camvid import CamVid
from pipelines.preparation.readers.streets import Streets
from tests.support.camvid_source import CamVidSource


def test_preparing_again_is_a_no_op_unless_the_source_changed(
    camvid: CamVidSource, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = prepare(CamVid(camvid.directory), out)
    modified = (out / "manifest.json").stat().st_mtime_ns
    assert prepare(CamVid(camvid.directory), out) == first
    assert (out / "manifest.json").stat().st_mtime_ns == modified
    later = os.stat(camvid.label()).st_mtime_ns + 10**9
    os.utime(camvid.label(), ns=(later, later))  # as if fixed without changing the size
    with pytest.raises(DatasetError, match="already holds the data set 'camvid'"):
        prepare(CamVid(camvid.directory), out)
    text = (out / "manifest.json").read_text()
    (out / "manifest.json").write_text(text.replace('"version": 2', '"version": 1'))
    with pytest.raises(DatasetError, match=r"format version 1 is not 2.*; delete .*/out and"):
        prepare(CamVid(camvid.directory), out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("important")
    with pytest.raises(DatasetError, match="exists but is not a prepared data set"):
        prepare(CamVid(camvid.directory), tmp_path / "mine")


@pytest.mark.parametrize("name", ["val-*.parquet", "index.pq", "manifest.json"])
def test_advice_for_a_lost_file_leads_to_a_whole_data_set(
    camvid: CamVidSource, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out"
    whole = prepare(CamVid(camvid.directory), out)
    next(out.glob(name)).unlink()
    with pytest.raises(DatasetError, match=f"delete {out} and prepare it again"):
        open_dataset(out)
    if name == "manifest.json":
        with pytest.raises(
            DatasetError, match=r"no manifest\.json; .* delete it and prepare it again"
        ):
            prepare(CamVid(camvid.directory), out)
    shutil.rmtree(out)
    assert prepare(CamVid(camvid.directory), out) == whole
    verify(open_dataset(out))


def test_concurrent_threads_prepare_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        manifests = list(
            pool.map(lambda _: prepare_streets(tmp_path / "s", 4, 2, (24, 48)), range(4))
        )
    assert len({manifest.fingerprint for manifest in manifests}) == 1
    assert not (tmp_path / ".s.partial").exists()


@pytest.mark.slow
def test_concurrent_processes_prepare_once(tmp_path: Path) -> None:
    arguments = ["streets", "--destination", str(tmp_path / "s"), "--workers", "1",
                 "--train", "4", "--val", "2", "--size", "24x48"]  # fmt: skip
    command = [sys.executable, "-m", "pipelines.prepare", *arguments]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    waiting = f"{tmp_path / 's'}: another process prepares it; waiting until it is done\n"
    assert {stderr for _, stderr in outputs} <= {"", waiting}
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    verify(open_dataset(tmp_path / "s"))


@pytest.mark.slow
def test_killed_preparation_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill the preparation at several points; finished shards are not rendered again."""
    out = tmp_path / "out"
    code = (
        "from pipelines.preparation import prepare_dataset\n"
        "from pipelines.preparation.embedded import prepare_streets\n"
        "prepare_dataset.SHARD_BYTES = 20000\n"
        f"prepare_streets({str(out)!r}, 40, 8, (64, 96))\n"
    )
    for shards, delay in ((1, 0.0), (3, 0.013), (6, 0.029)):
        process = subprocess.Popen([sys.executable, "-c", code])
        deadline = time.monotonic() + 60
        while len(list((tmp_path / ".out.partial").glob("*.parquet"))) < shards:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not out.exists()
    monkeypatch.setattr(prepare_dataset, "SHARD_BYTES", 20000)
    progress: list[int] = []
    manifest = prepare(
        Streets(train=40, val=8, size=(64, 96)),
        out,
        progress=lambda done, total: progress.append(done),
    )
    assert progress[0] >= 2 * 5  # two samples per shard; the journal may lack the last
    monkeypatch.setattr(prepare_dataset, "SHARD_BYTES", 128 << 20)
    uninterrupted = prepare_streets(tmp_path / "untouched", 40, 8, (64, 96))
    assert manifest.class_pixels == uninterrupted.class_pixels
    assert manifest.image_mean == pytest.approx(uninterrupted.image_mean)
    assert not (tmp_path / ".out.partial").exists()


@pytest.mark.slow
def test_workers_exit_when_the_preparation_is_killed(tmp_path: Path) -> None:
    arguments = ["streets", "--destination", str(tmp_path / "out"), "--workers", "2",
                 "--train", "500", "--size", "64x96"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.prepare", *arguments], start_new_session=True
    )
    deadline = time.monotonic() + 60
    while len(group_members(process.pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(group_members(process.pid)) >= 3
    process.send_signal(signal.SIGKILL)
    process.wait()
    while group_members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert group_members(process.pid) == []


@pytest.mark.slow
def test_killed_worker_is_reported_and_finished_shards_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel kills a worker when memory runs out."""
    monkeypatch.setattr(prepare_dataset, "SHARD_BYTES", 20000)
    reader = Streets(train=40, val=0, size=(64, 96))

    def kill(done: int, total: int) -> None:
        if done == 5:
            os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)

    with pytest.raises(ChildProcessError, match=r"a worker process was killed.*fewer --workers"):
        prepare(reader, tmp_path / "out", workers=2, progress=kill)
    assert not (tmp_path / "out").exists()
    progress: list[int] = []
    prepare(reader, tmp_path / "out", progress=lambda done, total: progress.append(done))
    assert progress[0] >= 4


def group_members(group: int) -> list[int]:
    """Return the IDs of the running processes in a process group."""
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, pgrp = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(pgrp) == group and state != "Z":
                members.append(int(entry.name))
    return members
