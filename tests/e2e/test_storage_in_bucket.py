"""Storage in a bucket of a local S3 server."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs
import pytest

from orchestrator.storage import Storage, local_copy
from pipelines.data.storage import locate


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Yield the URI of an empty bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = f"endpoint_override={host}:{port}&scheme=http&allow_bucket_creation=true"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        uri = f"s3://results/?{options}&region=us-east-1"
        filesystem, _ = pyarrow.fs.FileSystem.from_uri(uri)
        filesystem.create_dir("results")
        yield uri
    server.stop()


def test_stored_files_can_be_read_and_copied_back(bucket: str, tmp_path: Path) -> None:
    storage = Storage.parse(bucket)
    (tmp_path / "file").write_bytes(b"weights")
    uri = storage.put(tmp_path / "file", "initial/digest.safetensors")
    assert not (tmp_path / "file").exists()
    assert locate(storage.at("initial")).read("digest.safetensors") == b"weights"
    assert uri == storage.at("initial/digest.safetensors")
    with local_copy(storage.at("initial")) as directory:
        assert (directory / "digest.safetensors").read_bytes() == b"weights"
    assert not directory.exists()


def test_local_copy_contains_only_the_requested_files(bucket: str) -> None:
    storage = Storage.parse(bucket)
    location = locate(storage.at("checkpoint"))
    for name in ("state.json", "optimizer", "results/counts"):
        location.write(name, name.encode())
    with local_copy(storage.at("checkpoint"), only=["state.json", "results"]) as directory:
        names = {file.name for file in directory.rglob("*") if file.is_file()}
        assert names == {"state.json", "counts"}
        assert (directory / "results" / "counts").read_bytes() == b"results/counts"
    with (
        pytest.raises(OSError, match="nothing"),
        local_copy(storage.at("checkpoint"), only=["nothing"]),
    ):
        raise AssertionError("it is not there")
