"""COCO-Stuff in its published layouts."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.data.dataset import open_dataset
from pipelines.data.manifest import DatasetError
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.coco_stuff import CLASSES, COCOStuff
from tests.support.label_sources import write_image, write_label

# Things of COCO that the authors' README lists as without labels.
REMOVED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
IDS = [number for number in range(1, 183) if number not in REMOVED]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images", "annotations"),
        ("images", "stuffthingmaps"),
        (".", "stuffthingmaps_trainval2017"),
    ],
)
def test_layout_and_every_label_value(tmp_path: Path, images: str, labels: str) -> None:
    root = tmp_path / "source"
    (root / "annotations").mkdir(parents=True)  # also the folder of COCO's JSON files
    for split in ("train2017", "val2017"):
        write_image(root / images / split / "000000000009.jpg")
        values = [*(number - 1 for number in IDS), 255]
        stored = write_label(root / labels / split / "000000000009.png", values)
    prepare(COCOStuff(root), tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    assert dataset.manifest.counts == {"train": 1, "val": 1}
    _, label = dataset.split("val").read(0)
    expected = np.full(256, 255)
    expected[[number - 1 for number in IDS]] = np.arange(171)
    assert np.array_equal(label, expected[stored])


def test_names_have_the_published_ids() -> None:
    assert list(CLASSES) == IDS
    assert len(set(CLASSES.values())) == 171
    published = {1: "person", 13: "stop sign", 27: "backpack", 44: "bottle", 67: "dining table"}
    published |= {70: "toilet", 72: "tv", 84: "book", 90: "toothbrush", 92: "banner"}
    published |= {112: "door-stuff", 133: "mirror-stuff", 157: "sky-other", 182: "wood"}
    assert {number: CLASSES[number] for number in published} == published


def test_labels_written_by_other_toolkits_are_left_out(tmp_path: Path) -> None:
    write_image(tmp_path / "images/val2017/a.jpg")
    write_label(tmp_path / "annotations/val2017/a.png", [0, 1])
    write_label(tmp_path / "annotations/val2017/a_labelTrainIds.png", [0, 1])
    listing = COCOStuff(tmp_path).listing()
    assert [record.identifier for record in listing.records] == ["a"]
    assert listing.notes == ["1 converted labels, *_labelTrainIds.png, are not read"]


def test_what_is_missing_or_unknown_is_reported(tmp_path: Path) -> None:
    root = tmp_path / "source"
    (root / "images").mkdir(parents=True)
    with pytest.raises(DatasetError, match="not COCO-Stuff; expected images/train2017"):
        prepare(COCOStuff(root), tmp_path / "out")
    write_image(root / "images/val2017/a.jpg")
    with pytest.raises(DatasetError, match=r"val: .*annotations/val2017: no such folder"):
        prepare(COCOStuff(root), tmp_path / "out")
    write_label(root / "annotations/val2017/a.png", [0, 1, 11])
    with pytest.raises(DatasetError, match=r"a\.png: label has unknown values 11 in 96 pixels"):
        prepare(COCOStuff(root), tmp_path / "out")
