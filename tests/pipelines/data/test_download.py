"""Downloads from a local server that breaks off, changes the file or refuses parts of it."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.data.download import DownloadError, download
from tests.support.file_server import FileServer, serving_file

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving_file(CONTENT) as running:
        yield running


def break_off(server: FileServer, path: Path, after: int = 1000) -> None:
    """Download until the server breaks off."""
    server.break_after = after
    with pytest.raises(DownloadError, match=r"broke off .*; run the same command again"):
        download(f"{server.url}/a.zip", path)
    server.break_after = None
    assert not path.exists()


def test_interrupted_download_continues(server: FileServer, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    break_off(server, path)
    break_off(server, path, 500)
    reported: list[tuple[int, int]] = []
    checksum = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
    download(f"{server.url}/a.zip", path, checksum, lambda *amounts: reported.append(amounts))
    assert path.read_bytes() == CONTENT
    assert server.requested == [None, "bytes=1000-", "bytes=1500-"]
    assert reported == [(len(CONTENT), len(CONTENT))]
    assert [file.name for file in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("change", [{"etag": '"2"'}, {"etag": None}, {"ranges": False}])
def test_download_starts_again_where_it_cannot_continue(
    server: FileServer, tmp_path: Path, change: dict[str, object]
) -> None:
    path = tmp_path / "a.zip"
    break_off(server, path)
    server.content = CONTENT[::-1]
    for name, value in change.items():
        setattr(server, name, value)
    download(f"{server.url}/a.zip", path)
    assert path.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("etag", [None, 'W/"1"'])
def test_file_without_a_version_is_never_continued(
    server: FileServer, tmp_path: Path, etag: str | None
) -> None:
    server.etag = etag
    break_off(server, tmp_path / "a.zip")
    download(f"{server.url}/a.zip", tmp_path / "a.zip")
    assert server.requested == [None, None]


@pytest.mark.parametrize("size", [len(CONTENT), len(CONTENT) + 10])
def test_partial_file_as_large_as_the_file_or_larger(
    server: FileServer, tmp_path: Path, size: int
) -> None:
    """Such as after an interruption between the last byte and the renaming."""
    path = tmp_path / "a.zip"
    break_off(server, path)
    (tmp_path / "a.zip.partial").write_bytes((CONTENT * 2)[:size])
    download(f"{server.url}/a.zip", path)
    assert path.read_bytes() == CONTENT


def test_file_without_a_length(server: FileServer, tmp_path: Path) -> None:
    server.sizes = False
    reported: list[tuple[int, int]] = []
    download(f"{server.url}/a", tmp_path / "a", progress=lambda *each: reported.append(each))
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert reported == [(len(CONTENT), 0)]


def test_wrong_checksum_deletes_the_file(server: FileServer, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="not have the expected checksum sha256:0123;"):
        download(f"{server.url}/a.zip?key=secret", tmp_path / "a.zip", "sha256:0123")
    assert not list(tmp_path.iterdir())


def test_addresses_that_cannot_be_downloaded(server: FileServer, tmp_path: Path) -> None:
    for url, message in (
        (f"{server.url}/missing?key=secret", r"/missing: the server answered 404 \(Not Found\)"),
        ("http://127.0.0.1:1/a.zip", "cannot be reached .*check the address and the network"),
        ("http:///a.zip", "cannot be reached"),
        ("http://127.0.0.1:port/a.zip", "cannot be reached"),
        ("http://[/a.zip", "not the address of a file; give one with http"),
        ("file:///etc/hostname", "not the address of a file"),
        ("/data/a.zip", "not the address of a file"),
    ):
        with pytest.raises(DownloadError, match=message) as caught:
            download(url, tmp_path / "a.zip")
        assert "secret" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://user:secret@host/x", "ftp://host/x: is not the address of a file"),
        ("http://user:secret@host/x", "http://host/x: an address with a user or password"),
        ("http://[bad/x", "is not the address of a file"),
        ("http://a..b/x", "cannot be reached"),
        ("http://127.0.0.1:9/\u00e9", "cannot be reached"),
    ],
)
def test_odd_addresses_are_one_sentence(tmp_path: Path, address: str, message: str) -> None:
    with pytest.raises(DownloadError) as caught:
        download(address, tmp_path / "file")
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
