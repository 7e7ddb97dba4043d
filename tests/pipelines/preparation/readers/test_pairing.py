"""Images and labels are paired by their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.preparation.readers.pairing import Suffixes, pair_files, select


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


@pytest.mark.parametrize(
    ("names", "setting"),
    [
        (("a.jpg", "a_mask.png", "b.jpg", "b_mask.png"), "`label_suffix: _mask` in dataset.yaml"),
        (("a.jpg", "a.png"), "`image_suffix: .jpg` and `label_suffix: .png`"),
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


def test_missing_suffix_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "i/1.jpg", "i/10.jpg", "l/1_mask.png", "l/10_mask.png")
    assert "each label is named like its image with '_mask' added" in problem(tmp_path, "i", "l")
    assert "set `label_suffix: _mask` in dataset.yaml" in problem(tmp_path, "i", "l")
    assert "set `image_suffix: _mask` in dataset.yaml" in problem(tmp_path, "l", "i")


def test_files_of_one_name_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "i/a.jpg", "i/b.jpg", "i/b.png", "l/a.png", "l/a.tif", "l/b.png")
    listing = pair_files("train", tmp_path / "i", tmp_path / "l")
    assert listing.records == []
    first, second = listing.problems
    assert first.startswith(f"train/a: 2 labels have this name, {tmp_path / 'l/a.png'}, ")
    assert second.startswith(f"train/b: 2 images have this name, {tmp_path / 'i/b.jpg'}, ")


def test_names_are_equal_in_any_unicode_form(tmp_path: Path) -> None:
    touch(tmp_path, "i/zu\u0308rich.jpg", "l/z\u00fcrich.png")
    assert list(pairs(tmp_path, "i", "l")) == ["z\u00fcrich"]


def test_lists_may_hold_names_or_paths(tmp_path: Path) -> None:
    touch(tmp_path, "i/s/a.b.jpg", "i/c.jpg", "l/s/a.b_mask.png", "l/c_mask.png")
    folders = [tmp_path / "i", tmp_path / "l"]
    listing = pair_files("train", *folders, Suffixes(label="_mask"))
    for line in ("s/a.b", "s\\a.b.jpg", "i/s/a.b.jpg", "./i\\s\\a.b", "l/s/a.b_mask.png"):
        for file in (tmp_path / "names.txt", tmp_path / "lists/names.txt"):
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"\ufeff{line}\r\n", encoding="utf-8")
            selected = select(listing, "train", file, tmp_path, folders)
            assert [record.identifier for record in selected.records] == ["s/a.b"]
    file.write_text("c\nabsent.jpg\n")
    selected = select(listing, "train", file, tmp_path, folders)
    assert [record.identifier for record in selected.records] == ["c"]
    assert selected.problems == [f"train: {file}:2: no image or label named 'absent.jpg'"]
