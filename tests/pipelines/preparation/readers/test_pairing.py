"""Images and labels are paired by their names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.preparation.readers.pairing import Suffixes, pair_files, select_listed


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def pairs(root: Path, images: str, labels: str, **suffixes: str) -> dict[str, tuple[str, str]]:
    listing = pair_files("train", root / images, root / labels, Suffixes(**suffixes))
    assert listing.problems == []
    return {
        record.identifier: (record.image.name, record.label.name if record.label else "")
        for record in listing.records
    }


def problem(root: Path, images: str, labels: str, **suffixes: str) -> str:
    listing = pair_files("train", root / images, root / labels, Suffixes(**suffixes))
    (text,) = listing.problems
    return text


def test_suffixes_are_removed_from_names(tmp_path: Path) -> None:
    touch(tmp_path, "i/a.jpg", "i/s/b.jpg", "l/a_mask.png", "l/s/b_mask.png")
    expected = {"a": ("a.jpg", "a_mask.png"), "s/b": ("b.jpg", "b_mask.png")}
    assert pairs(tmp_path, "i", "l", label="_mask") == expected
    assert pairs(tmp_path, "i", "l", label="_mask.png") == expected
    touch(tmp_path, "j/a_image.png", "j/s/b_image.png")
    assert pairs(tmp_path, "j", "l", image="_image", label="_mask")["a"][0] == "a_image.png"


def test_one_folder_may_hold_images_and_labels(tmp_path: Path) -> None:
    touch(tmp_path, "r/a.jpg", "r/a_mask.png", "r/b.jpg", "r/b_mask.png", "r/_classes.csv")
    expected = {"a": ("a.jpg", "a_mask.png"), "b": ("b.jpg", "b_mask.png")}
    assert pairs(tmp_path, "r", "r", label="_mask") == expected
    touch(tmp_path, "v/a.jpg", "v/a.png")
    assert pairs(tmp_path, "v", "v", image=".jpg", label=".png") == {"a": ("a.jpg", "a.png")}
    assert pairs(tmp_path, "v", "v", image=".jpg") == {"a": ("a.jpg", "a.png")}


def test_suffixes_and_endings_may_be_in_upper_case(tmp_path: Path) -> None:
    touch(tmp_path, "r/a.jpg", "r/a.png", "r/b.JPG", "r/b.PNG")
    expected = {"a": ("a.jpg", "a.png"), "b": ("b.JPG", "b.PNG")}
    assert pairs(tmp_path, "r", "r", image=".jpg", label=".png") == expected
    assert pairs(tmp_path, "r", "r", label=".png") == expected
    touch(tmp_path, "i/a_image.png", "i/b_Image.PNG", "l/a.png", "l/b.png")
    assert list(pairs(tmp_path, "i", "l", image="_image")) == ["a", "b"]
    touch(tmp_path, "s/a.png", "s/a_mask.png", "s/b.png", "s/b_MASK.PNG")
    expected = {"a": ("a.png", "a_mask.png"), "b": ("b.png", "b_MASK.PNG")}
    assert pairs(tmp_path, "s", "s", image=".png", label="_mask.png") == expected


@given(
    stem=st.text("abü漢_-", min_size=1),
    suffix=st.text("_maskü", min_size=1),
    change=st.sampled_from([str.upper, str.lower, str.title]),
)
def test_any_suffix_is_found_in_upper_and_lower_case(
    tmp_path_factory: pytest.TempPathFactory,
    stem: str,
    suffix: str,
    change: Callable[[str], str],
) -> None:
    root = tmp_path_factory.mktemp("names")
    touch(root, f"i/{stem}.jpg", f"l/{stem}{change(suffix)}{change('.png')}")
    for label in (suffix, f"{suffix}.png"):
        listing = pair_files("train", root / "i", root / "l", Suffixes(label=label))
        (record,) = listing.records
        assert record.identifier == stem
        assert record.label is not None
        assert record.label.exists()


def test_files_without_the_suffix_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "r/a.jpg", "r/a.png", "r/b.jpeg", "r/b.png", "r/c.tif")
    listing = pair_files("train", tmp_path / "r", tmp_path / "r", Suffixes(".jpg", ".png"))
    assert listing.notes == [
        f"train: {tmp_path / 'r'}: 2 files do not end in '.jpg' or '.png' (b.jpeg, c.tif)"
    ]
    assert pair_files("test", tmp_path / "r", None, Suffixes(".jpg")).notes == [
        f"test: {tmp_path / 'r'}: 4 files do not end in '.jpg' (a.png, b.jpeg and 2 more)"
    ]
    touch(tmp_path, "l/a_mask.png", "l/a_color.png")
    listing = pair_files("train", tmp_path / "r", tmp_path / "l", Suffixes(".jpg", "_mask"))
    assert listing.notes == [
        f"train: {tmp_path / 'r'}: 4 files do not end in '.jpg' (a.png, b.jpeg and 2 more)",
        f"train: {tmp_path / 'l'}: 1 file does not end in '_mask' (a_color.png)",
    ]


@pytest.mark.parametrize(
    ("names", "setting"),
    [
        (("a.jpg", "a_mask.png", "b.jpg", "b_mask.png"), "`label_suffix: _mask` in dataset.yaml"),
        (("a.jpg", "a.png", "b.JPG", "b.png", "c.jpeg", "c.png"), "set `label_suffix: .png`"),
        (("a.png", "b.png"), "`label_suffix` in dataset.yaml to the end"),
    ],
)
def test_image_is_not_its_own_label(tmp_path: Path, names: tuple[str, ...], setting: str) -> None:
    touch(tmp_path / "train", *names)
    (tmp_path / "link").symlink_to(tmp_path / "train")
    for labels in ("train", "link"):
        text = problem(tmp_path, "train", labels)
        assert "each image would be its own label" in text
        assert setting in text


@pytest.mark.parametrize("broken", ["i/a.jpg", "l/a.png"])
def test_broken_link_is_one_problem(tmp_path: Path, broken: str) -> None:
    touch(tmp_path, "i/a.jpg", "l/a.png", "i/b.jpg", "l/b.png")
    (tmp_path / broken).unlink()
    (tmp_path / broken).symlink_to("/nowhere/a")
    listing = pair_files("train", tmp_path / "i", tmp_path / "l")
    assert [record.identifier for record in listing.records] == ["b"]
    (text,) = listing.problems
    assert text == f"train: {tmp_path / broken}: links to /nowhere/a, which does not exist"


def test_missing_suffix_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "i/1.jpg", "i/10.jpg", "l/1_mask.png", "l/10_mask.png")
    assert "each label is named like its image with '_mask' added" in problem(tmp_path, "i", "l")
    assert "set `label_suffix: _mask` in dataset.yaml" in problem(tmp_path, "i", "l")
    assert "set `image_suffix: _mask` in dataset.yaml" in problem(tmp_path, "l", "i")


def test_suffix_of_few_names_is_not_advised(tmp_path: Path) -> None:
    numbers = range(6)
    touch(tmp_path, *(f"i/00{n}.png" for n in numbers), *(f"l/{n}.png" for n in numbers))
    listing = pair_files("train", tmp_path / "i", tmp_path / "l")
    assert (listing.problems, len(listing.records)) == ([], 12)  # each lacks its other file


def test_files_of_one_name_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "i/a.jpg", "i/b.jpg", "i/b.png", "l/a.png", "l/a.tif", "l/b.png")
    touch(tmp_path, "i/c.jpg", "i/c.png", "l/c.png", "l/c.tif")
    listing = pair_files("train", tmp_path / "i", tmp_path / "l")
    assert listing.records == []
    first, second, *_ = listing.problems
    assert first.startswith(f"train/a: 2 labels have this name, {tmp_path / 'l/a.png'}, ")
    assert second.startswith(f"train/b: 2 images have this name, {tmp_path / 'i/b.jpg'}, ")


def test_names_are_equal_in_any_unicode_form(tmp_path: Path) -> None:
    touch(tmp_path, "i/zu\u0308rich.jpg", "l/z\u00fcrich.png")
    assert list(pairs(tmp_path, "i", "l")) == ["z\u00fcrich"]


def test_lists_may_hold_names_or_paths(tmp_path: Path) -> None:
    touch(tmp_path, "i/s/a.b.jpg", "i/c.jpg", "l/s/a.b_mask.png", "l/c_mask.png")
    folders = [tmp_path / "i", tmp_path / "l"]
    listing = pair_files("train", *folders, Suffixes(label="_mask"))
    for line in (
        "s/a.b",
        "s\\a.b.jpg",
        "i/s/a.b.jpg",
        "./i\\s\\a.b",
        "l/s/a.b_mask.png",
        "s/a.b_mask",
    ):
        for file in (tmp_path / "names.txt", tmp_path / "lists/names.txt"):
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"\ufeff{line}\r\n", encoding="utf-8")
            selected = select_listed(listing, "train", file, tmp_path, folders)
            assert [record.identifier for record in selected.records] == ["s/a.b"]
    for line in ("l/s/a.b_mask.png", "i/s/a.b.jpg"):
        file.write_text(str(tmp_path / line))
        selected = select_listed(listing, "train", file, tmp_path, folders)
        assert [record.identifier for record in selected.records] == ["s/a.b"]
    file.write_text("/i/c.jpg /l/c_mask.png\n")
    selected = select_listed(listing, "train", file, tmp_path, folders)
    assert [record.identifier for record in selected.records] == ["c"]
    file.write_text("/i/c.jpg /l/s/a.b_mask.png\n")  # image and label of two samples
    (text,) = select_listed(listing, "train", file, tmp_path, folders).problems
    assert "no image or label named '/i/c.jpg /l/s/a.b_mask.png'" in text
    file.write_text("c\nabsent.jpg\n")
    selected = select_listed(listing, "train", file, tmp_path, folders)
    assert [record.identifier for record in selected.records] == ["c"]
    assert selected.problems == [f"train: {file}:2: no image or label named 'absent.jpg'"]
    file.write_text("c.5\n")
    (text,) = select_listed(listing, "train", file, tmp_path, folders).problems
    assert text == f"train: {file}:1: no image or label named 'c.5'"
    touch(tmp_path, "elsewhere/c.jpg")
    file.write_text(f"{tmp_path}/elsewhere/c.jpg\n")
    (text,) = select_listed(listing, "train", file, tmp_path, folders).problems
    assert f"elsewhere/c.jpg' is not below {tmp_path}/i or {tmp_path}/l, the folders" in text
    file.write_bytes(b"c\ncaf\xe9\n")
    (text,) = select_listed(listing, "train", file, tmp_path, folders).problems
    assert r"line 2, 'caf\\xe9', is not UTF-8; save it as UTF-8" in text


def test_lists_may_hold_paths_through_a_link_or_to_its_folder(tmp_path: Path) -> None:
    touch(tmp_path, "disk/i/a.jpg", "disk/i/b.jpg", "set/l/a.png", "set/l/b.png")
    (tmp_path / "set" / "i").symlink_to(tmp_path / "disk" / "i")
    folders = [tmp_path / "set" / "i", tmp_path / "set" / "l"]
    listing = pair_files("train", *folders)
    names = tmp_path / "names.txt"
    names.write_text(f"{tmp_path}/set/i/b.jpg\n{tmp_path}/disk/i/a.jpg\n")
    selected = select_listed(listing, "train", names, tmp_path / "set", folders)
    assert [record.identifier for record in selected.records] == ["b", "a"]
    assert selected.problems == []
