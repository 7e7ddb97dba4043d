"""Pascal Context: the pictures of VOC 2010 with labels for whole scenes.

Mottaghi et al., "The role of context for object detection and semantic segmentation in the wild",
CVPR 2014; the usual 59 classes. Colours are the VOC development kit's colour map.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from pipelines.manifest import ClassInfo, DatasetError
from pipelines.readers.reader import IGNORE, Reader, Record

LISTED = (
    "aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, table, dog, horse, "
    "motorbike, person, pottedplant, sheep, sofa, train, tvmonitor, bag, bed, bench, book, "
    "building, cabinet, ceiling, cloth, computer, cup, door, fence, floor, flower, food, grass, "
    "ground, keyboard, light, mountain, mouse, curtain, platform, sign, plate, road, rock, "
    "shelves, sidewalk, sky, snow, bedclothes, track, tree, truck, wall, water, window, wood"
)
NAMES = tuple(LISTED.split(", "))
FOLDERS = ("", "VOC2010", "VOCdevkit/VOC2010")
LISTS = "ImageSets/SegmentationContext"


@dataclass(frozen=True)
class PascalContext(Reader):
    """59 classes, label 0 (background) ignored; or 60 classes with background as the first."""

    background: bool = False

    name = "pascal-context"
    help = "Pascal Context (VOC2010: JPEGImages/, SegmentationClassContext/ and split lists)"

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        named = tuple(ClassInfo(name, voc_color(i)) for i, name in enumerate(NAMES, start=1))
        return (ClassInfo("background", voc_color(0)), *named) if self.background else named

    def values(self, record: Record) -> Mapping[int, int]:
        if self.background:
            return super().values(record)
        return {0: IGNORE, 255: IGNORE, **{i + 1: i for i in range(len(NAMES))}}

    def records(self) -> list[Record]:
        records = []
        for root in (self.source / folder for folder in FOLDERS):
            for split in ("train", "val"):
                path = root / LISTS / f"{split}.txt"
                if not path.is_file():
                    continue
                names = path.read_text(encoding="utf-8").split()
                if not names:
                    raise DatasetError(f"{path}: lists no samples")
                for name in names:
                    image = root / "JPEGImages" / f"{name}.jpg"
                    label = root / "SegmentationClassContext" / f"{name}.png"
                    records.append(Record(name, split, image, label))
            if records:
                return records
        raise DatasetError(
            f"{self.source}: not Pascal Context; expected VOC2010/JPEGImages/*.jpg, "
            f"VOC2010/SegmentationClassContext/*.png and VOC2010/{LISTS}/train.txt or val.txt"
        )

    @property
    def version(self) -> str:
        return f"{super().version} background={self.background}"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--background", action="store_true", help="60 classes: background is one, not ignored"
        )

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Self:
        return cls(source=arguments.source, background=arguments.background)


def voc_color(index: int) -> tuple[int, int, int]:
    """Colour `index` of the VOC colour map: its bits are dealt out to red, green and blue."""
    channels = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            channels[channel] |= (index >> (3 * place + channel) & 1) << (7 - place)
    return channels[0], channels[1], channels[2]
