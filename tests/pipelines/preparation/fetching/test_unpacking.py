"""Archives are unpacked whole and into their folder only."""

import io
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.preparation.fetching.unpacking import ArchiveError, unpack


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def tree(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


FILES = {"main/CamVid/train/a.png": b"1", "main/CamVid/train.txt": b"2", "main/README": b"3"}


@pytest.mark.parametrize("prefix", ["", "main/"])
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_folder_is_unpacked(tmp_path: Path, kind: str, prefix: str) -> None:
    files = {name.replace("main/", prefix): content for name, content in FILES.items()}
    path = tmp_path / f"archive.{kind}"
    if kind == "zip":
        write_zip(path, {"main/CamVid/": b"", **files})
    else:
        write_tar(path, files, "w:gz" if kind == "tar.gz" else "w")
    reported: list[tuple[int, int]] = []
    unpack(path, "CamVid", tmp_path / "out", lambda *amounts: reported.append(amounts))
    assert tree(tmp_path / "out") == {"train/a.png": b"1", "train.txt": b"2"}
    assert reported == [(1, 2), (2, 2)]


PARTS = st.lists(st.sampled_from(["..", ".", "", "a", "CamVid", "C:", "\\", "..\\b"]), min_size=1)


@settings(max_examples=50)
@given(names=st.lists(PARTS.map("/".join), min_size=1, max_size=3, unique=True))
def test_nothing_is_written_outside_the_folder(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        work.mkdir()
        archive = write_tar(Path(folder) / "a.tar", dict.fromkeys(names, b"x"))
        try:
            unpack(archive, "CamVid", work / "CamVid")
        except (ArchiveError, OSError):  # OSError: a name that is both a file and a folder
            assert not (work / "CamVid").exists()
        assert {path.name for path in Path(folder).iterdir()} == {"work", "a.tar"}
        assert {path.name for path in work.iterdir()} <= {"CamVid", "CamVid.partial"}


@pytest.mark.parametrize("name", ["../evil", "/evil", "CamVid/../../evil", "..\\evil", "C:\\evil"])
def test_path_that_leads_outside_is_an_error(tmp_path: Path, name: str) -> None:
    archive = write_zip(tmp_path / "a.zip", {**FILES, name: b"x"})
    with pytest.raises(ArchiveError, match="which would be written outside the folder"):
        unpack(archive, "CamVid", tmp_path / "CamVid")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_link_is_an_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        entry = zipfile.ZipInfo("CamVid/link")
        entry.external_attr = 0o120777 << 16
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(entry, "/etc")
    else:
        link = tarfile.TarInfo("CamVid/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        with tarfile.open(path, "w") as tape:
            tape.addfile(link)
    with pytest.raises(ArchiveError, match="'CamVid/link', which is a link or a device"):
        unpack(path, "CamVid", tmp_path / "CamVid")
    assert not (tmp_path / "CamVid").exists()


def test_damaged_and_other_archives(tmp_path: Path) -> None:
    page = tmp_path / "page.zip"
    page.write_text("<html>busy</html>")
    other = write_zip(tmp_path / "other.zip", {"a/b/CamVid/x": b""})
    changed = write_zip(tmp_path / "changed.zip", {"CamVid/x": b"0123456789"})
    changed.write_bytes(changed.read_bytes().replace(b"0123456789", b"0123456780"))
    short = write_tar(tmp_path / "short.tar", {"CamVid/x": b"0" * 5000})
    short.write_bytes(short.read_bytes()[:3000])
    for archive, message in (
        (page, "neither a zip nor a tar archive; delete it"),
        (other, "holds no folder CamVid"),
        (changed, "is damaged .*; delete it and download it again"),
        (short, "is damaged .*; delete it and download it again"),
    ):
        with pytest.raises(ArchiveError, match=message):
            unpack(archive, "CamVid", tmp_path / "CamVid")
        assert not (tmp_path / "CamVid").exists()


@pytest.mark.parametrize(
    ("offsets", "value", "reason"),
    [((8, 10), 97, "compression"), ((6, 8), 1, "password")],
    ids=["compression", "encryption"],
)
def test_zip_files_that_python_cannot_read(
    tmp_path: Path, offsets: tuple[int, int], value: int, reason: str
) -> None:
    """offsets: of the changed field in the local and the central header."""
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("data/list.txt", "one")
    content = bytearray(archive.read_bytes())
    for signature, offset in zip((b"PK\x03\x04", b"PK\x01\x02"), offsets, strict=True):
        content[content.index(signature) + offset] = value
    archive.write_bytes(content)
    with pytest.raises(ArchiveError, match=rf"{reason}.*; unpack it with another program"):
        unpack(archive, "data", tmp_path / "out")
    assert not (tmp_path / "out").exists()
