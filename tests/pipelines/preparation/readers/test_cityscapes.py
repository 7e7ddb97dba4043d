"""Cityscapes against the benchmark's official scripts, and in another layout."""

from pathlib import Path

from cityscapesscripts.helpers.labels import labels

from pipelines.preparation.readers.cityscapes import Cityscapes
from pipelines.preparation.readers.reader import Record
from tests.support.label_sources import write_image, write_label


def test_classes_are_those_of_the_official_scripts() -> None:
    reader = Cityscapes(Path())
    values = reader.values(Record("a", "train", Path("a.png"), Path("a_gtFine_labelIds.png")))
    official = [label for label in labels if label.id >= 0]
    assert values == {label.id: label.trainId for label in official}
    trained = {label.trainId: (label.name, label.color) for label in official}
    found = {index: (entry.name, entry.color) for index, entry in enumerate(reader.classes)}
    assert found == {index: trained[index] for index in range(19)}


def test_images_outside_of_cities_are_reported(tmp_path: Path) -> None:
    write_image(tmp_path / "leftImg8bit/val/munster/munster_0_0_leftImg8bit.png")
    write_label(tmp_path / "gtFine/val/munster/munster_0_0_gtFine_labelIds.png", [7, 33])
    write_image(tmp_path / "leftImg8bit/train/aachen_0_0_leftImg8bit.png")
    (problem,) = Cityscapes(tmp_path).listing().problems
    assert problem.endswith("leftImg8bit/train: contains no CITY/*_leftImg8bit.png")
