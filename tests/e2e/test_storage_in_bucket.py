"""What a command keeps in a bucket on a real S3 server of this machine."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs
import pytest

from orchestrator.storage import Storage, local_copy
from pipelines.data.storage import locate


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URI of an empty bucket."""
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


def test_files_kept_in_a_bucket_come_back(bucket: str, tmp_path: Path) -> None:
    storage = Storage.parse(bucket)
    (tmp_path / "file").write_bytes(b"weights")
    kept = storage.put(tmp_path / "file", "initial/digest.safetensors")
    assert not (tmp_path / "file").exists()
    assert locate(storage.at("initial")).read("digest.safetensors") == b"weights"
    assert kept == storage.at("initial/digest.safetensors")
    with local_copy(storage.at("initial")) as directory:
        assert (directory / "digest.safetensors").read_bytes() == b"weights"
    assert not directory.exists()


def test_what_is_needed_of_a_directory_is_copied_alone(bucket: str) -> None:
    storage = Storage.parse(bucket)
    place = locate(storage.at("checkpoint"))
    for name in ("state.json", "momentum", "results/counts"):
        place.write(name, name.encode())
    with local_copy(storage.at("checkpoint"), only=["state.json", "results"]) as directory:
        found = {file.name for file in directory.rglob("*") if file.is_file()}
        assert found == {"state.json", "counts"}
        assert (directory / "results" / "counts").read_bytes() == b"results/counts"
    with (
        pytest.raises(OSError, match="nothing"),
        local_copy(storage.at("checkpoint"), only=["nothing"]),
    ):
        raise AssertionError("it is not there")
