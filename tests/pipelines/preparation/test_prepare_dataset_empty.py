"""Splits that a source describes, but that have no sample."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.data.manifest import DatasetError
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers import READERS, Reader

CLASSES = "classes: {ground: [110, 80, 60], tree: [40, 120, 40]}\n"
TRAIN = "  train: {images: images/train, labels: labels/train}\n"
VAL = "  val: {images: images/val, labels: labels/val}\n"
LISTED = VAL.replace("}", ", names: val.txt}")


def description(val: str, **keys: str) -> dict[str, str]:
    lines = "".join(f"{key}: {value}\n" for key, value in keys.items())
    return {"dataset.yaml": f"{CLASSES}{lines}splits:\n{TRAIN}{val}"}


FOLDER = ["images/train/a.png labels/train/a.png"]
VALID = [*FOLDER, "images/val/b.png labels/val/b.png"]
CITY = "train/c/c_0_0_"
VOC_LISTS = "ImageSets/Segmentation"
CONTEXT_LISTS = "ImageSets/SegmentationContext"
#: Reader, its pairs of image and label, its text files, and its empty folders.
SOURCES: dict[str, tuple[str, list[str], dict[str, str], list[str]]] = {
    "empty folder": ("folder", FOLDER, description(VAL), ["images/val", "labels/val"]),
    "no folder": ("folder", FOLDER, description(VAL), []),
    "one folder": (
        "folder",
        FOLDER,
        description(VAL.replace("labels/", "images/")),
        ["images/val"],
    ),
    "empty list": ("folder", VALID, {**description(LISTED), "val.txt": "\n"}, []),
    "no group": ("folder", VALID, description(VAL, group="a"), []),
    "ade20k": (
        "ade20k",
        ["images/training/a.jpg annotations/training/a.png"],
        {},
        ["images/validation", "annotations/validation"],
    ),
    "cityscapes": (
        "cityscapes",
        [f"leftImg8bit/{CITY}leftImg8bit.png gtFine/{CITY}gtFine_labelTrainIds.png"],
        {},
        ["leftImg8bit/val"],
    ),
    "voc": (
        "voc",
        ["JPEGImages/a.jpg SegmentationClass/a.png"],
        {f"{VOC_LISTS}/train.txt": "a\n", f"{VOC_LISTS}/val.txt": "\n"},
        [],
    ),
    "pascal-context": (
        "pascal-context",
        ["JPEGImages/a.jpg SegmentationClassContext/a.png"],
        {f"{CONTEXT_LISTS}/train.txt": "a\n", f"{CONTEXT_LISTS}/val.txt": "\n"},
        [],
    ),
    "camvid": (
        "camvid",
        ["train/a.png trainannot/a.png"],
        {"train.txt": "train/a.png trainannot/a.png\n", "val.txt": ""},
        [],
    ),
}


def source(root: Path, name: str) -> Reader:
    reader, pairs, texts, folders = SOURCES[name]
    random = np.random.default_rng(0)
    for pair in pairs:
        for file, shape in zip(pair.split(), [(8, 8, 3), (8, 8)], strict=True):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 2, shape, dtype=np.uint8)).save(root / file)
    for file, text in texts.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
    return READERS[reader](source=root)


@pytest.mark.parametrize("name", SOURCES)
def test_a_split_for_training_without_samples_is_an_error(tmp_path: Path, name: str) -> None:
    reader = source(tmp_path / "source", name)
    with pytest.raises(DatasetError, match=r"(?s)2 problems.*\n  val: no sample is left$"):
        prepare(reader, tmp_path / "out", skip_invalid=True)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_another_split_without_samples_is_noted(tmp_path: Path) -> None:
    reader = source(tmp_path / "source", "empty folder")
    text = reader.source / "dataset.yaml"
    text.write_text(text.read_text().replace("  val:", "  test:"))
    manifest = prepare(READERS["folder"](source=reader.source), tmp_path / "out", skip_invalid=True)
    assert manifest.counts == {"train": 1}
    assert "test: no sample is left" in manifest.notes
