"""LoveDA in its published layout."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.data.dataset import open_dataset
from pipelines.data.manifest import DatasetError
from pipelines.preparation.prepare_dataset import prepare
from pipelines.preparation.readers.loveda import LoveDA
from tests.support.label_sources import write_image, write_label


def test_layout_classes_and_domains(tmp_path: Path) -> None:
    root = tmp_path / "source"
    names = iter(range(6))
    for split in ("Train", "Val", "Test"):
        for domain in ("Urban", "Rural"):
            name = f"{next(names)}.png"
            write_image(root / split / domain / "images_png" / name)
            if split != "Test":
                stored = write_label(root / split / domain / "masks_png" / name, [*range(8)])
    prepare(LoveDA(root), tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    assert dataset.manifest.counts == {"train": 2, "val": 2, "test": 2}
    assert dataset.split("val").groups == ["Rural", "Urban"]
    assert dataset.split("val").identifiers == ["3", "2"]
    expected = np.where(stored == 0, 255, stored.astype(int) - 1)
    assert np.array_equal(dataset.split("train").read(0)[1], expected)
    assert dataset.split("test").read_encoded(0)[1] is None
    assert [entry.name for entry in dataset.manifest.classes][-1] == "agricultural"


def test_domains_are_found_in_lower_case_and_missed(tmp_path: Path) -> None:
    for split, domain in (("Train", "Rural"), ("Train", "urban"), ("val", "rural")):
        write_image(tmp_path / split / domain / "images_png/0.png")
        write_label(tmp_path / split / domain / "masks_png/0.png", [1, 2])
    listing = LoveDA(tmp_path).listing()
    found = [(record.split, record.group) for record in listing.records]
    assert found == [("train", "Rural"), ("train", "Urban"), ("val", "Rural")]
    (note,) = listing.notes
    assert note == f"val: {tmp_path}/val/Urban: no such folder, so the split lacks this domain"


def test_what_is_missing_or_unknown_is_reported(tmp_path: Path) -> None:
    root = tmp_path / "source"
    (root / "Train").mkdir(parents=True)
    with pytest.raises(DatasetError, match="not LoveDA; expected Train/Rural/images_png"):
        prepare(LoveDA(root), tmp_path / "out")
    write_image(root / "Train/Rural/images_png/0.png")
    write_image(root / "Train/Urban/images_png/1.png")
    write_label(root / "Train/Urban/masks_png/1.png", [1, 2, 8, 255])
    with pytest.raises(DatasetError, match="2 problems") as caught:
        prepare(LoveDA(root), tmp_path / "out")
    assert "train: " in str(caught.value)
    assert "Train/Rural/masks_png: no such folder" in str(caught.value)
    assert "1.png: label has unknown values 8, 255 in 144 pixels; known are 0-7" in str(
        caught.value
    )
