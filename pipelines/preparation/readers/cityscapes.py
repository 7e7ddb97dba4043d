"""Cityscapes with fine annotations, as published.

Cordts et al., "The Cityscapes dataset for semantic urban scene understanding", CVPR 2016; label
ids, training ids and colors are those of the official scripts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.data.image_io import ImageError
from pipelines.data.manifest import ClassInfo, DatasetError
from pipelines.preparation.images.files import search, visible
from pipelines.preparation.labels import IGNORE
from pipelines.preparation.readers.reader import Listing, Reader, Record, color

# Label id, name and color of the 19 trained and scored classes, in order of their training ids.
CLASSES = (
    (7, "road", 0x804080),
    (8, "sidewalk", 0xF423E8),
    (11, "building", 0x464646),
    (12, "wall", 0x66669C),
    (13, "fence", 0xBE9999),
    (17, "pole", 0x999999),
    (19, "traffic light", 0xFAAA1E),
    (20, "traffic sign", 0xDCDC00),
    (21, "vegetation", 0x6B8E23),
    (22, "terrain", 0x98FB98),
    (23, "sky", 0x4682B4),
    (24, "person", 0xDC143C),
    (25, "rider", 0xFF0000),
    (26, "car", 0x00008E),
    (27, "truck", 0x000046),
    (28, "bus", 0x003C64),
    (31, "train", 0x005064),
    (32, "motorcycle", 0x0000E6),
    (33, "bicycle", 0x770B20),
)
LABEL_IDS = 34
IMAGE = "_leftImg8bit.png"
LABEL = "_gtFine_labelIds.png"
TRAINING_LABEL = "_gtFine_labelTrainIds.png"


@dataclass(frozen=True)
class Cityscapes(Reader):
    """19 classes from 34 label ids; the other ids are ignored. A sample's group is its city.

    If a sample has both `labelTrainIds` and `labelIds`, `labelTrainIds` is read; a note records
    how many labels of each kind are read. The test split has no public labels and is prepared
    without.
    """

    name = "cityscapes"
    help = "Cityscapes: leftImg8bit/ and gtFine/ (or *_trainvaltest/), labelIds or labelTrainIds"

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        return tuple(ClassInfo(name, color(number)) for _, name, number in CLASSES)

    def values(self, record: Record) -> Mapping[int, int]:
        if record.label is not None and record.label.name.endswith(TRAINING_LABEL):
            return super().values(record)
        ignored = dict.fromkeys(range(LABEL_IDS), IGNORE)
        return {**ignored, **{entry[0]: index for index, entry in enumerate(CLASSES)}}

    def indices(self, record: Record, label_image: Image.Image) -> NDArray[np.uint16]:
        stored = super().indices(record, label_image)
        has_label_ids = record.label is not None and record.label.name.endswith(LABEL)
        if has_label_ids and (stored == IGNORE).any():
            raise ImageError(
                "has value 255, which is not a label id; if these are training ids, name the file "
                f"*{TRAINING_LABEL}"
            )
        return stored

    def listing(self) -> Listing:
        images, labels = self._folder("leftImg8bit"), self._folder("gtFine")
        whole = Listing()
        for split in ("train", "val", "test"):
            stems = {
                file.relative_to(root).with_name(file.name.removesuffix(ending))
                for root, ending in (
                    (images / split, IMAGE),
                    (labels / split, LABEL),
                    (labels / split, TRAINING_LABEL),
                )
                if split != "test" or ending == IMAGE
                for file in root.glob(f"*/*{ending}")
                if visible(file, root)
            }
            for folder in (images / split, labels / split):
                found = search(folder).problems if folder.is_dir() else []
                whole.problems += [f"{split}: {problem}" for problem in found]
            if not stems and (images / split).is_dir():
                whole.splits.add(split)
                whole.problems.append(f"{split}: {images / split}: contains no CITY/*{IMAGE}")
            for stem in sorted(stems):
                label = None if split == "test" else _label(labels / split / stem)
                image = images / split / f"{stem}{IMAGE}"
                whole.records.append(Record(stem.name, split, image, label, stem.parent.name))
        for kind in (LABEL, TRAINING_LABEL):
            names = [record.label.name for record in whole.records if record.label is not None]
            count = sum(name.endswith(kind) for name in names)
            if count:
                whole.notes.append(f"labels are read from *{kind} for {count} images")
        if not whole.records and not whole.problems:
            raise DatasetError(
                f"{self.source}: not Cityscapes; expected leftImg8bit/train/CITY/*{IMAGE} and "
                f"gtFine/train/CITY/*{LABEL}"
            )
        return whole

    def _folder(self, name: str) -> Path:
        """Return the folder `name`, which may be inside the folder its archive unpacks to."""
        for parent in (self.source, self.source / f"{name}_trainvaltest"):
            if (parent / name).is_dir():
                return parent / name
        packed = self.source / f"{name}_trainvaltest"
        return packed if packed.is_dir() else self.source / name


def _label(stem: Path) -> Path:
    training = stem.with_name(stem.name + TRAINING_LABEL)
    return training if training.exists() else stem.with_name(stem.name + LABEL)
