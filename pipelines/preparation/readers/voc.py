"""PASCAL VOC 2012, semantic segmentation, as published: `VOCdevkit/VOC2012`.

Everingham, Eslami, Van Gool, Williams, Winn and Zisserman, "The PASCAL visual object classes
challenge: a retrospective", 2015; classes and colors are those of the development kit.

The split `trainaug` adds the labels of Hariharan et al., "Semantic contours from inverse
detectors", ICCV 2011, in the form in which they are passed on: `SegmentationClassAug` with a list
`trainaug.txt` of 10,582 names, those of `train` included.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipelines.data.manifest import ClassInfo, DatasetError
from pipelines.preparation.labels.colors import voc_color
from pipelines.preparation.readers.reader import Listing, Reader, Record, read_names

CLASSES = (
    "background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, "
    "dog, horse, motorbike, person, pottedplant, sheep, sofa, train, tvmonitor"
)
FOLDERS = ("", "VOC2012", "VOCdevkit/VOC2012")
LISTS = "ImageSets/Segmentation"
LABELS = "SegmentationClass"
AUGMENTED = "SegmentationClassAug"


@dataclass(frozen=True)
class VOC(Reader):
    """21 classes with background; label value 255 is ignored.

    Splits: `train` and `val`, or `trainval` where neither list exists; `trainaug` where its list
    and labels exist; `test`, which has no public labels.
    """

    name = "voc"
    help = (
        "PASCAL VOC 2012 (VOC2012: JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/; "
        "split trainaug from SegmentationClassAug/)"
    )

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        return tuple(
            ClassInfo(name, voc_color(index)) for index, name in enumerate(CLASSES.split(", "))
        )

    def listing(self) -> Listing:
        roots = [self.source / folder for folder in FOLDERS]
        root = next((root for root in roots if (root / LISTS).is_dir()), self.source)
        lists = {
            split: root / LISTS / f"{split}.txt"
            for split in ("train", "val", "trainval", "trainaug", "test")
            if (root / LISTS / f"{split}.txt").is_file()
        }
        if lists.keys() & {"train", "val"}:
            lists.pop("trainval", None)  # `data.train_split: train+val` joins the two
        whole = Listing()
        if ("trainaug" in lists) != (root / AUGMENTED).is_dir():
            lists.pop("trainaug", None)
            whole.notes.append(
                f"{root}: no split trainaug, which needs both {LISTS}/trainaug.txt and {AUGMENTED}/"
            )
        for split, path in lists.items():
            whole.add(read_names(path, split, partial(_record, root)))
        if not lists:
            raise DatasetError(
                f"{self.source}: not PASCAL VOC 2012; expected VOC2012/JPEGImages/*.jpg, "
                f"VOC2012/{LABELS}/*.png, and VOC2012/{LISTS}/train.txt or val.txt"
            )
        return whole


def _record(root: Path, split: str, name: str) -> Record:
    folder = root / (AUGMENTED if split == "trainaug" else LABELS)
    label = None if split == "test" else folder / f"{name}.png"
    return Record(name, split, root / "JPEGImages" / f"{name}.jpg", label)
