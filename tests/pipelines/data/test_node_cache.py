"""The node cache: contents, concurrency, killed builders, insufficient space and eviction."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from pipelines.data import image_io, node_cache
from pipelines.data.dataset import PreparedDataset, Split, open_dataset
from pipelines.data.decoded_split import DecodedSplit
from pipelines.data.manifest import DatasetError
from pipelines.data.node_cache import NodeCache
from pipelines.preparation.embedded import prepare_streets


def arrow_files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.arrow"))


@pytest.mark.slow
def test_cached_split_contains_the_same_samples(streets: PreparedDataset, tmp_path: Path) -> None:
    split = streets.split("train")
    decoded = NodeCache(tmp_path).decoded(streets, "train")
    assert isinstance(decoded, DecodedSplit)
    assert len(decoded) == len(split)
    assert decoded.identifiers == split.identifiers
    assert np.array_equal(decoded.centroids, split.centroids)
    for index in range(len(split)):
        for cached, expected in zip(decoded.read(index), split.read(index), strict=True):
            assert np.array_equal(cached, expected)
            assert not cached.flags.writeable
    reopened = NodeCache(tmp_path).decoded(streets, "train")
    assert isinstance(reopened, DecodedSplit)
    assert len(arrow_files(tmp_path)) == 1


def test_changed_decoder_invalidates_the_cache(
    streets: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new version of the decoder must not reuse images cached by an earlier one."""
    cache = NodeCache(tmp_path / "cache")
    cache.decoded(streets, "val")
    changed = tmp_path / "imaging.py"
    changed.write_text(Path(image_io.__file__).read_text() + "# changed\n")
    for module, name, value in (
        (image_io, "__file__", str(changed)),
        (Image, "__version__", "99.0"),
    ):
        monkeypatch.setattr(module, name, value)
        cache.decoded(streets, "val")
    assert len(arrow_files(tmp_path / "cache")) == 3


def test_joined_splits_share_cached_parts(streets: PreparedDataset, tmp_path: Path) -> None:
    split = streets.split("val+train")
    decoded = NodeCache(tmp_path).decoded(streets, "val+train")
    assert len(decoded) == len(split) == 14
    assert decoded.identifiers == split.identifiers
    assert decoded.groups == split.groups
    assert np.array_equal(decoded.class_pixels, split.class_pixels)
    assert np.array_equal(decoded.centroids, split.centroids)
    for index in range(len(split)):
        assert all(map(np.array_equal, decoded.read(index), split.read(index)))
    assert isinstance(NodeCache(tmp_path).decoded(streets, "train"), DecodedSplit)
    assert len(arrow_files(tmp_path)) == 2


@pytest.mark.slow
def test_concurrent_processes_build_once(streets: PreparedDataset, tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from pipelines.data import node_cache
from pipelines.data.dataset import Split, open_dataset
reads = []
read = Split.read
Split.read = lambda self, index: reads.append(index) or read(self, index)
found = node_cache.NodeCache(Path({str(tmp_path)!r})).decoded(
    open_dataset({streets.location.path!r}), "train")
assert type(found).__name__ == "DecodedSplit"
print(len(reads))
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    counts = sorted(int(process.communicate(timeout=120)[0]) for process in processes)
    assert counts == [0, 0, 11]


def test_killed_builder_leaves_no_arrow_file(streets: PreparedDataset, tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from pipelines.data import node_cache
from pipelines.data.dataset import Split, open_dataset
read = Split.read
Split.read = lambda self, index: time.sleep(0.2 if index > 4 else 0) or read(self, index)
dataset = open_dataset({streets.location.path!r})
node_cache.NodeCache(Path({str(tmp_path)!r})).decoded(dataset, "train")
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*.partial")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob("*.partial"))
    assert not arrow_files(tmp_path)
    decoded = NodeCache(tmp_path).decoded(streets, "train")
    assert isinstance(decoded, DecodedSplit)
    assert np.array_equal(decoded.read(10)[0], streets.split("train").read(10)[0])
    assert not list(tmp_path.glob("*.partial"))


def test_samples_are_decoded_on_read_if_space_is_insufficient(
    streets: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.warns(UserWarning, match=r"'train': it needs 0\.1 MiB, but .* room for 0\.0"):
        decoded = NodeCache(tmp_path, capacity=10_000).decoded(streets, "train")
    assert isinstance(decoded, Split)
    full = shutil.disk_usage(tmp_path)._replace(free=node_cache.MARGIN + 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.warns(UserWarning, match=r"room for 0\.0 MiB with 1\.0 GiB of the disk left free"):
        assert isinstance(NodeCache(tmp_path).decoded(streets, "train"), Split)
    assert not arrow_files(tmp_path)


def test_abandoned_partial_files_are_deleted(streets: PreparedDataset, tmp_path: Path) -> None:
    size = 11 * 32 * 64 * 4
    abandoned = tmp_path / "0123-val.1.arrow.partial"
    locked = tmp_path / "4567-val.1.arrow.partial"
    for path in (abandoned, locked):
        path.write_bytes(bytes(size))
    with FileLock(tmp_path / "4567-val.1.lock"):
        decoded = NodeCache(tmp_path, capacity=2 * size + 100).decoded(streets, "train")
    assert isinstance(decoded, DecodedSplit)
    assert not abandoned.exists()
    assert locked.exists()


def test_full_disk_falls_back_to_decoding(
    streets: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(node_cache.pa.ipc, "new_file", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert isinstance(NodeCache(tmp_path).decoded(streets, "train"), Split)
    assert not list(tmp_path.glob("*.arrow*"))


def test_damaged_cache_file_is_rebuilt(streets: PreparedDataset, tmp_path: Path) -> None:
    NodeCache(tmp_path).decoded(streets, "val")
    path = arrow_files(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:1000])
    decoded = NodeCache(tmp_path).decoded(streets, "val")
    assert isinstance(decoded, DecodedSplit)
    assert np.array_equal(decoded.read(2)[1], streets.split("val").read(2)[1])


def test_error_names_the_damaged_sample(streets: PreparedDataset, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(streets.location.path, tmp_path / "copy"))
    stored, _ = open_dataset(directory).split("train").read_encoded(3)
    shard = next(directory.glob("train-*"))
    data = bytearray(shard.read_bytes())
    data[data.index(stored) + 50] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DatasetError, match="sample 'train-00003'"):
        NodeCache(tmp_path / "cache").decoded(open_dataset(directory), "train")
    assert not list((tmp_path / "cache").glob("*.arrow*"))


@pytest.mark.slow
def test_only_unused_cache_files_are_evicted(tmp_path: Path) -> None:
    datasets = []
    for seed in range(3):
        prepare_streets(tmp_path / str(seed), train=4, val=1, size=(32, 64), seed=seed)
        datasets.append(open_dataset(tmp_path / str(seed)))
    cache = NodeCache(
        tmp_path / "cache", capacity=80_000
    )  # a cached split takes slightly over 32768 bytes
    first, second = (cache.decoded(dataset, "train") for dataset in datasets[:2])
    assert isinstance(first, DecodedSplit)
    assert isinstance(second, DecodedSplit)
    with pytest.warns(UserWarning, match="no node cache"):
        assert isinstance(cache.decoded(datasets[2], "train"), Split)
    kept = first.read(0)[0]
    del second
    gc.collect()
    assert isinstance(cache.decoded(datasets[2], "train"), DecodedSplit)
    names = [path.name[:8] for path in arrow_files(tmp_path / "cache")]
    assert sorted(names) == sorted(datasets[i].manifest.fingerprint[:8] for i in (0, 2))
    assert np.array_equal(kept, datasets[0].split("train").read(0)[0])
