"""Pascal Context: the images of VOC 2010 with labels of whole scenes.

Mottaghi et al., "The role of context for object detection and semantic segmentation in the wild",
CVPR 2014; the usual 59 classes, with the colors of the VOC development kit.

There are two sets of label PNGs. The authors' `59_context_labels` number the classes as their
`59_labels.txt` does. `SegmentationClassContext`, which the toolkits' converters produce from the
full annotation, numbers them alphabetically. Labels read in the wrong order are wrong but valid.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Self

from pipelines.data.manifest import ClassInfo, DatasetError
from pipelines.preparation.labels import IGNORE
from pipelines.preparation.labels.colors import voc_color
from pipelines.preparation.readers.reader import Listing, Reader, Record, read_names

OFFICIAL_ORDER = (
    "aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, table, dog, horse, "
    "motorbike, person, pottedplant, sheep, sofa, train, tvmonitor, bag, bed, bench, book, "
    "building, cabinet, ceiling, cloth, computer, cup, door, fence, floor, flower, food, grass, "
    "ground, keyboard, light, mountain, mouse, curtain, platform, sign, plate, road, rock, "
    "shelves, sidewalk, sky, snow, bedclothes, track, tree, truck, wall, water, window, wood"
)
NAMES = tuple(OFFICIAL_ORDER.split(", "))
ORDERS = {"official": NAMES, "alphabetical": tuple(sorted(NAMES))}
# Label folders and the order of the classes in each.
LABELS = {"SegmentationClassContext": "alphabetical", "59_context_labels": "official"}
FOLDERS = ("", "VOC2010", "VOCdevkit/VOC2010")
LISTS = "ImageSets/SegmentationContext"


@dataclass(frozen=True)
class PascalContext(Reader):
    """59 classes and label 0 (background) ignored, or 60 classes with background as the first.

    order: order of the classes in the labels' values, a key of ORDERS; None for the order of the
        label folder in LABELS.
    """

    background: bool = False
    order: str | None = None

    name = "pascal-context"
    help = (
        "Pascal Context (VOC2010: JPEGImages/, SegmentationClassContext/ or 59_context_labels/, "
        "and split lists)"
    )

    @cached_property
    def _labels(self) -> Path | None:
        """The label folder, if it exists."""
        for folder in FOLDERS:
            for name in LABELS:
                if (self.source / folder / name).is_dir():
                    return self.source / folder / name
        return None

    @property
    def _order(self) -> str:
        return self.order or ("official" if self._labels is None else LABELS[self._labels.name])

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        named = tuple(
            ClassInfo(name, voc_color(i)) for i, name in enumerate(ORDERS[self._order], start=1)
        )
        return (ClassInfo("background", voc_color(0)), *named) if self.background else named

    def values(self, record: Record) -> Mapping[int, int]:
        if self.background:
            return super().values(record)
        return {0: IGNORE, 255: IGNORE, **{i + 1: i for i in range(len(self.classes))}}

    def listing(self) -> Listing:
        labels = self._labels
        if labels is None:
            raise DatasetError(
                f"{self.source}: not Pascal Context; expected VOC2010/JPEGImages/*.jpg, "
                f"VOC2010/{' or VOC2010/'.join(LABELS)} with *.png, and VOC2010/{LISTS}/train.txt "
                "or val.txt"
            )
        root = labels.parent
        whole = Listing()
        for split in ("train", "val"):
            path = root / LISTS / f"{split}.txt"
            if path.is_file():
                whole.add(read_names(path, split, partial(_record, root, labels)))
        if not whole.records and not whole.problems:
            raise DatasetError(f"{root / LISTS}: expected lists of names, train.txt or val.txt")
        return whole

    @property
    def version(self) -> str:
        return f"{super().version} background={self.background} order={self._order}"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--background",
            action="store_true",
            help="60 classes: do not ignore background",
        )
        parser.add_argument(
            "--order",
            choices=tuple(ORDERS),
            help="order of the classes in the labels' values (default: alphabetical for "
            "SegmentationClassContext, official for 59_context_labels)",
        )

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Self:
        return cls(source=arguments.source, background=arguments.background, order=arguments.order)


def _record(root: Path, labels: Path, split: str, name: str) -> Record:
    return Record(name, split, root / "JPEGImages" / f"{name}.jpg", labels / f"{name}.png")
