"""Data sets in an object store: a real S3 server on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.fs
import pytest

from pipelines.data.dataset import DatasetError, open_dataset
from pipelines.data.node_cache import DecodedSplit, NodeCache
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
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A function of a path in a new bucket to its URI, given as a format string."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    options = f"endpoint_override={server}&scheme=http&allow_bucket_creation=true&region=us-east-1"
    name = f"bucket-{abs(hash(request.node.name)) % 10**8}"
    filesystem, _ = pyarrow.fs.FileSystem.from_uri(f"s3://{name}/?{options}")
    filesystem.create_dir(name)
    return f"s3://{name}/{{}}?{options}"


def test_an_object_store_holds_the_same_data_set(bucket: str, tmp_path: Path) -> None:
    uri = bucket.format("sets/streets")
    remote = prepare_streets(uri, train=4, val=2, size=(24, 48))
    local = prepare_streets(tmp_path / "local", train=4, val=2, size=(24, 48))
    assert remote == local
    assert sorted(locate(uri).sizes()) == sorted(p.name for p in (tmp_path / "local").iterdir())
    found, wanted = open_dataset(uri), open_dataset(tmp_path / "local")
    for index in range(4):
        for mine, own in zip(
            found.split("train").read(index), wanted.split("train").read(index), strict=True
        ):
            assert np.array_equal(mine, own)
    decoded = NodeCache(tmp_path / "cache").decoded(found, "val")
    assert isinstance(decoded, DecodedSplit)
    assert np.array_equal(decoded.read(1)[0], wanted.split("val").read(1)[0])
    assert prepare_streets(uri, train=4, val=2, size=(24, 48)) == remote
    with pytest.raises(DatasetError, match="already holds the data set 'streets'"):
        prepare_streets(uri, train=5, val=2, size=(24, 48))


def test_a_failed_preparation_leaves_nothing(bucket: str, camvid: CamVidSource) -> None:
    uri = bucket.format("camvid")
    camvid.label("val", 1).unlink()
    with pytest.raises(DatasetError, match="val/0001TP_val001"):
        prepare(CamVid(camvid.directory), uri)
    assert locate(uri).sizes() == {}
    with pytest.raises(DatasetError, match=r"does not exist|holds no prepared data set"):
        open_dataset(uri)


def test_an_interrupted_preparation_goes_on(
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
    seen: list[int] = []
    prepare(CamVid(camvid.directory), uri, progress=lambda done, total: seen.append(done))
    assert seen[0] == 3
    assert len(open_dataset(uri).split("val")) == 3


def test_two_at_once_prepare_once(bucket: str, tmp_path: Path) -> None:
    uri = bucket.format("shared")
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda _: prepare_streets(uri, 4, 2, (24, 48)), range(3)))
    assert len({manifest.fingerprint for manifest in made}) == 1
    assert "journal.json" not in locate(uri).sizes()
    verify(open_dataset(uri))


def test_what_is_there_is_left_alone(bucket: str, camvid: CamVidSource) -> None:
    uri = bucket.format("mine")
    locate(uri).write("thesis.txt", b"important")
    with pytest.raises(DatasetError, match="exists but is not a prepared data set"):
        prepare(CamVid(camvid.directory), uri)
    assert locate(uri).read("thesis.txt") == b"important"


def test_a_bucket_that_is_not_there_gets_a_sentence(
    bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = bucket.format("x").replace("s3://bucket", "s3://nowhere")
    with pytest.raises(DatasetError, match="nowhere"):
        open_dataset(uri)
    assert main(["inspect", uri]) == 2
    assert "nowhere" in capsys.readouterr().err
