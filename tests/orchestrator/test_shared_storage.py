"""Where a command keeps things: a directory, or a bucket on a real S3 server of this machine."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.storage import Storage, local_copy
from orchestrator.sweep.__main__ import main as sweep
from orchestrator.tracking.store import TrackingError, TrackingStore, open_store
from pipelines.data.storage import locate, within


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


def test_a_directory_is_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = Storage.parse("results")
    assert storage.local == tmp_path / "results"
    assert storage.shared == str(tmp_path / "results")
    assert storage.at("trials") == str(tmp_path / "results" / "trials")


def test_a_uri_keeps_its_query_at_the_end() -> None:
    storage = Storage.parse("s3://bucket/a/b/?region=eu-west-1")
    assert storage.at("trials/x") == "s3://bucket/a/b/trials/x?region=eu-west-1"
    assert storage.is_remote
    assert storage.local.is_absolute()
    assert storage.local.name == "s3-bucket-a-b"


@given(st.text("ab?=/ ", max_size=12), st.text("abc", min_size=1, max_size=4))
def test_a_path_is_a_path_whatever_is_in_it(tail: str, name: str) -> None:
    place = Path("/root") / tail.strip("/")
    assert Path(within(place, name)) == place / name


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


def test_a_directory_here_is_itself(tmp_path: Path) -> None:
    with local_copy(str(tmp_path)) as directory:
        assert directory == tmp_path
    assert tmp_path.exists()


def test_a_bucket_holds_no_ledger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    storage = Storage.parse("s3://bucket/x")
    with pytest.raises(TrackingError, match="set MLFLOW_TRACKING_URI"):
        open_store(storage)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'file.db'}")
    with pytest.raises(TrackingError, match="set MLFLOW_TRACKING_URI"):
        open_store(storage)  # a file of this machine is no server


def test_an_address_with_a_key_in_it_is_refused_and_not_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("study: x\nvariants: {a: {}}\nbase: {data: {dataset: 's3://k:hush@b/data'}}\n")
    for options in (
        ["--storage", "s3://key:hush@bucket/storage"],
        ["--storage", "s3://bucket/x", "--address", "http://127.0.0.1:9"],
    ):
        assert sweep([str(study), *options]) == 2
    told = capsys.readouterr().out
    assert told.count("a key in an address") == 2
    assert "hush" not in told


def test_a_password_of_the_tracking_server_is_not_shown() -> None:
    store = object.__new__(TrackingStore)
    store.tracking_uri = "https://me:hush@mlflow.lab:443"
    assert store.display_uri == "https://me@mlflow.lab:443"
    assert "hush" not in store.viewing_instructions("1")
    store.tracking_uri = "sqlite:////storage/mlflow.db"
    assert store.display_uri == store.tracking_uri
