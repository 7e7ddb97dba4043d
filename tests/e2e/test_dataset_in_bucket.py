"""Data sets in a bucket of a local S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.fs
import pytest

from pipelines.data.dataset import open_dataset
from pipelines.data.decoded_split import DecodedSplit
from pipelines.data.manifest import DatasetError
from pipelines.data.node_cache import NodeCache
from pipelines.data.storage import locate
from pipelines.preparation import prepare_dataset
from pipelines.preparation.embedded import prepare_streets
from pipelines.preparation.inspection import verify
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.camvid import CamVid
from pipelines.prepare import main
from tests.support.camvid_source import CamVidSource


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Yield HOST:PORT of an S3 server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Create a bucket and return the format string of a URI in it, with `{}` for the path."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    options = f"endpoint_override={server}&scheme=http&allow_bucket_creation=true&region=us-east-1"
    name = f"bucket-{abs(hash(request.node.name)) % 10**8}"
    filesystem, _ = pyarrow.fs.FileSystem.from_uri(f"s3://{name}/?{options}")
    filesystem.create_dir(name)
    return f"s3://{name}/{{}}?{options}"


def test_bucket_and_local_folder_hold_the_same_data_set(bucket: str, tmp_path: Path) -> None:
    uri = bucket.format("sets/streets")
    remote = prepare_streets(uri, train=4, val=2, size=(24, 48))
    local = prepare_streets(tmp_path / "local", train=4, val=2, size=(24, 48))
    assert remote == local
    assert sorted(locate(uri).sizes()) == sorted(p.name for p in (tmp_path / "local").iterdir())
    in_bucket, in_folder = open_dataset(uri), open_dataset(tmp_path / "local")
    for index in range(4):
        for actual, expected in zip(
            in_bucket.split("train").read(index), in_folder.split("train").read(index), strict=True
        ):
            assert np.array_equal(actual, expected)
    decoded = NodeCache(tmp_path / "cache").decoded(in_bucket, "val")
    assert isinstance(decoded, DecodedSplit)
    assert np.array_equal(decoded.read(1)[0], in_folder.split("val").read(1)[0])
    assert prepare_streets(uri, train=4, val=2, size=(24, 48)) == remote
    with pytest.raises(DatasetError, match="already holds the data set 'streets'"):
        prepare_streets(uri, train=5, val=2, size=(24, 48))


def test_failed_preparation_leaves_no_files(bucket: str, camvid: CamVidSource) -> None:
    uri = bucket.format("camvid")
    camvid.label("val", 1).unlink()
    with pytest.raises(DatasetError, match="val/0001TP_val001"):
        prepare(CamVid(camvid.directory), uri)
    assert locate(uri).sizes() == {}
    with pytest.raises(DatasetError, match=r"does not exist|holds no prepared data set"):
        open_dataset(uri)


def test_interrupted_preparation_resumes(
    bucket: str, camvid: CamVidSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = bucket.format("camvid")
    monkeypatch.setattr(prepare_dataset, "SHARD_BYTES", 100)

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(CamVid(camvid.directory), uri, progress=stop)
    with pytest.raises(DatasetError, match="half-written"):
        open_dataset(uri)
    progress: list[int] = []
    prepare(CamVid(camvid.directory), uri, progress=lambda done, total: progress.append(done))
    assert progress[0] == 3
    assert len(open_dataset(uri).split("val")) == 3


def test_concurrent_preparations_produce_one_data_set(bucket: str, tmp_path: Path) -> None:
    uri = bucket.format("shared")
    with ThreadPoolExecutor(3) as pool:
        manifests = list(pool.map(lambda _: prepare_streets(uri, 4, 2, (24, 48)), range(3)))
    assert len({manifest.fingerprint for manifest in manifests}) == 1
    assert "journal.json" not in locate(uri).sizes()
    verify(open_dataset(uri))


def test_preparation_keeps_foreign_files(bucket: str, camvid: CamVidSource) -> None:
    uri = bucket.format("mine")
    locate(uri).write("thesis.txt", b"important")
    with pytest.raises(DatasetError, match="exists but is not a prepared data set"):
        prepare(CamVid(camvid.directory), uri)
    assert locate(uri).read("thesis.txt") == b"important"


def test_missing_bucket_is_reported_in_one_message(
    bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = bucket.format("x").replace("s3://bucket", "s3://nowhere")
    with pytest.raises(DatasetError, match="nowhere"):
        open_dataset(uri)
    assert main(["inspect", uri]) == 2
    assert "nowhere" in capsys.readouterr().err
