"""`Storage`: the directory or bucket in which a command stores its files."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.storage import Storage, StorageError, local_copy, unique_name
from orchestrator.sweep.__main__ import main as sweep
from pipelines.data.storage import join_uri
from tests.support.users import another_user


def test_directory_is_local_and_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = Storage.parse("results")
    assert storage.local == tmp_path / "results"
    assert storage.shared == str(tmp_path / "results")
    assert storage.at("trials") == str(tmp_path / "results" / "trials")


def test_query_stays_at_the_end_of_a_uri() -> None:
    storage = Storage.parse("s3://bucket/a/b/?region=eu-west-1")
    assert storage.at("trials/x") == "s3://bucket/a/b/trials/x?region=eu-west-1"
    assert storage.is_remote
    assert storage.local.is_absolute()
    assert storage.local.name == "s3-bucket-a-b"


@given(st.text("ab?=/ ", max_size=12), st.text("abc", min_size=1, max_size=4))
def test_join_uri_joins_any_local_path(tail: str, name: str) -> None:
    directory = Path("/root") / tail.strip("/")
    assert Path(join_uri(directory, name)) == directory / name


def test_names_of_one_process_in_one_second_differ() -> None:
    assert len({unique_name() for _ in range(100)}) == 100


def test_local_copy_of_a_local_directory_is_itself(tmp_path: Path) -> None:
    with local_copy(str(tmp_path)) as directory:
        assert directory == tmp_path
    assert tmp_path.exists()


def test_uri_with_a_key_is_rejected_and_not_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("study: x\nvariants: {a: {}}\nbase: {data: {dataset: 's3://k:hush@b/data'}}\n")
    for options in (
        ["--storage", "s3://key:hush@bucket/storage"],
        ["--storage", "s3://bucket/x", "--address", "http://127.0.0.1:9"],
    ):
        assert sweep([str(study), *options]) == 2
    output = capsys.readouterr().out
    assert output.count("a key in a URI") == 2
    assert "hush" not in output


@pytest.fixture
def roots_storage() -> Iterator[Path]:
    """A storage of root, whose folder anyone may write to, but not what is in it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        for name in ("artifacts", "lost+found", "trials"):
            (Path(directory) / name).mkdir()
        (Path(directory) / "mlflow.db").touch()
        (Path(directory) / "trials").chmod(0o777)
        Path(directory).chmod(0o777)
        yield Path(directory)


def test_storage_of_another_user_names_everything_that_may_not_be_written(
    roots_storage: Path,
) -> None:
    message = r"cannot write to artifacts, mlflow\.db in it; ask the"
    with another_user(), pytest.raises(StorageError, match=message):
        Storage.parse(str(roots_storage)).create()


def test_storage_with_files_of_its_own_can_be_used_again(tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "trials").symlink_to(tmp_path / "nowhere")
    Storage.parse(str(tmp_path)).create()
