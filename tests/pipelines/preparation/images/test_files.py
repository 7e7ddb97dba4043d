"""Which files of a folder are images, and how lists of names are read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.preparation.images.files import normalized, read_lines, search


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_links_are_followed_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    images = [touch(root / "a.png"), touch(root / "city/b.JFIF")]
    touch(tmp_path / "disk/c.tif")
    (root / "linked").symlink_to(tmp_path / "disk")
    (root / "city/back").symlink_to(root)
    (root / "d.jpg").symlink_to(root / "a.png")
    content = search(root)
    assert content.images == sorted([*images, root / "linked/c.tif", root / "d.jpg"])
    assert content.problems == []
    (note,) = content.notes()
    assert note == f"{root / 'city/back'}: links to a folder that contains it; not followed"


def test_broken_links_are_problems_and_other_extensions_are_counted(tmp_path: Path) -> None:
    touch(tmp_path / "a.png")
    (tmp_path / "gone.png").symlink_to("/nowhere/x.png")
    (tmp_path / "disk").symlink_to("/nowhere/disk")
    for name in (
        "b.npy",
        "c.npy",
        "README",
        "._a.png",
        ".DS_Store",
        ".cache/d.png",
        "Thumbs.db",
        "@eaDir/a.png",
    ):
        touch(tmp_path / name)
    content = search(tmp_path)
    assert content.images == [tmp_path / "a.png"]
    assert content.problems == [
        f"{tmp_path / 'disk'}: links to /nowhere/disk, which does not exist",
        f"{tmp_path / 'gone.png'}: links to /nowhere/x.png, which does not exist",
    ]
    assert content.notes() == ["3 files with unknown extensions (.npy 2, no extension 1)"]


def test_names_that_are_not_utf8_are_problems(tmp_path: Path) -> None:
    touch(tmp_path / "a.png")
    folder = os.fsencode(tmp_path)
    os.mkdir(folder + b"/stra\xdfe")
    for name in (b"/caf\xe9.png", b"/stra\xdfe/b.png"):
        open(folder + name, "wb").close()
    content = search(tmp_path)
    assert content.images == [tmp_path / "a.png"]
    assert [text.split(": ")[0] for text in content.problems] == [
        rf"{tmp_path}/caf\xe9.png",
        rf"{tmp_path}/stra\xdfe",
    ]
    assert "its name is not UTF-8; rename it, such as with `convmv" in content.problems[0]
    (text,) = search(Path(os.fsdecode(folder + b"/stra\xdfe"))).problems
    assert text == content.problems[1]


@given(
    names=st.lists(st.text("abü漢 ._-", min_size=1).filter(lambda name: name.strip() == name)),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    end=st.sampled_from(["\n", "\r\n", " \r\n"]),
    backslashes=st.booleans(),
)
def test_lists_made_on_windows_are_read(
    tmp_path_factory: pytest.TempPathFactory,
    names: list[str],
    encoding: str,
    end: str,
    backslashes: bool,
) -> None:
    path = tmp_path_factory.getbasetemp() / "names.txt"
    folder = "images\\" if backslashes else "images/"
    path.write_bytes("".join(f"{folder}{name}{end}" for name in names).encode(encoding))
    assert read_lines(path) == [f"images/{name}" for name in names]


def test_composed_and_decomposed_letters_are_equal() -> None:
    assert normalized("u\u0308") == normalized("\u00fc") == "\u00fc"
