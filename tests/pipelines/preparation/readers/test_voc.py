"""PASCAL VOC 2012 in its published layout."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.data.dataset import open_dataset
from pipelines.data.manifest import DatasetError
from pipelines.preparation.labels.colors import voc_color
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.voc import VOC
from tests.support.label_sources import write_image, write_label

PALETTE = [voc_color(index) for index in range(256)]


def add(root: Path, split: str, name: str, folder: str = "SegmentationClass") -> np.ndarray:
    """Write an image with a label of all values, and add it to the list of a split."""
    write_image(root / f"JPEGImages/{name}.jpg")
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True, exist_ok=True)
    with (lists / f"{split}.txt").open("a") as file:
        file.write(f"{name}\n")
    palette = PALETTE if folder == "SegmentationClass" else None
    return write_label(root / folder / f"{name}.png", [*range(21), 255], palette)


@pytest.mark.parametrize("folder", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc_layout_classes_and_void(tmp_path: Path, folder: str) -> None:
    root = tmp_path / "source" / folder
    stored = add(root, "train", "2007_000032")
    add(root, "val", "2007_000033")
    add(root, "trainval", "2007_000032")
    write_image(root / "JPEGImages/2008_000001.jpg")
    (root / "ImageSets/Segmentation/test.txt").write_text("2008_000001\n")
    prepare(VOC(tmp_path / "source"), tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    assert dataset.manifest.counts == {"train": 1, "val": 1, "test": 1}
    assert np.array_equal(dataset.split("train").read(0)[1], stored)
    assert dataset.split("test").read_encoded(0)[1] is None
    names = [entry.name for entry in dataset.manifest.classes]
    assert (names[0], names[15], names[20]) == ("background", "person", "tvmonitor")
    assert dataset.manifest.classes[15].color == (192, 128, 128)


def test_trainaug_reads_its_own_labels(tmp_path: Path) -> None:
    add(tmp_path, "train", "a")
    add(tmp_path, "trainaug", "a", "SegmentationClassAug")
    add(tmp_path, "trainaug", "b", "SegmentationClassAug")
    listing = VOC(tmp_path).listing()
    labels = [(record.split, record.label) for record in listing.records]
    augmented = tmp_path / "SegmentationClassAug"
    assert labels == [
        ("train", tmp_path / "SegmentationClass/a.png"),
        ("trainaug", augmented / "a.png"),
        ("trainaug", augmented / "b.png"),
    ]
    assert not listing.problems + listing.notes
    (tmp_path / "ImageSets/Segmentation/trainaug.txt").unlink()
    listing = VOC(tmp_path).listing()
    assert [record.split for record in listing.records] == ["train"]
    assert "trainaug.txt and SegmentationClassAug/" in listing.notes[0]


def test_lists_may_hold_paths_of_images_and_labels(tmp_path: Path) -> None:
    names = ["2007_000032", "frame.000033"]
    for name in names:
        add(tmp_path, "train", name)
    lines = [f"/JPEGImages/{name}.jpg /SegmentationClass/{name}.png\n" for name in names]
    for text in ("".join(lines), "\n".join(names)):
        (tmp_path / "ImageSets/Segmentation/train.txt").write_text(text)
        assert [record.identifier for record in VOC(tmp_path).listing().records] == names


def test_trainval_is_read_where_it_is_the_only_list(tmp_path: Path) -> None:
    add(tmp_path, "trainval", "a")
    assert [record.split for record in VOC(tmp_path).listing().records] == ["trainval"]
    add(tmp_path, "train", "a")
    assert [record.split for record in VOC(tmp_path).listing().records] == ["train"]


def test_what_is_missing_or_unknown_is_reported(tmp_path: Path) -> None:
    root = tmp_path / "source"
    write_image(root / "JPEGImages/a.jpg")
    with pytest.raises(
        DatasetError, match=r"not PASCAL VOC 2012; .*Segmentation/train\.txt or val"
    ):
        prepare(VOC(root), tmp_path / "out")
    add(root, "train", "a")
    add(root, "train", "b")
    write_label(root / "SegmentationClass/a.png", [0, 1, 21])
    (root / "SegmentationClass/b.png").unlink()
    (root / "ImageSets/Segmentation/val.txt").write_text("\n")
    with pytest.raises(DatasetError, match="3 problems") as caught:
        prepare(VOC(root), tmp_path / "out")
    for part in (
        "val.txt: lists no samples",
        r"a.png: label has unknown values 21 in 96 pixels; known are 0-20, 255",
        "b.jpg: image has no label",
    ):
        assert part in str(caught.value)
