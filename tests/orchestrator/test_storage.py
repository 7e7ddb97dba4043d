"""Where a command keeps things: a directory, or a bucket on a real S3 server of this machine."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.storage import Storage, local_copy
from orchestrator.sweep.__main__ import main as sweep
from pipelines.data.storage import join_uri


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
    assert Path(join_uri(place, name)) == place / name


def test_a_directory_here_is_itself(tmp_path: Path) -> None:
    with local_copy(str(tmp_path)) as directory:
        assert directory == tmp_path
    assert tmp_path.exists()


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
    assert told.count("a key in a URI") == 2
    assert "hush" not in told
