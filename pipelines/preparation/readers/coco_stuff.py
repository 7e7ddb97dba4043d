"""COCO-Stuff: the 164k images of COCO 2017 with labels of things and stuff, as published.

Caesar, Uijlings and Ferrari, "COCO-Stuff: thing and stuff classes in context", CVPR 2018. Names
and ids are those of the authors' `labels.txt`, in which 0 is unlabeled and 11 things occur in no
label. The label PNGs (`stuffthingmaps`) store id - 1, and 255 for unlabeled. The authors publish no
colors; a class has the color of its id in the VOC development kit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.data.manifest import ClassInfo, DatasetError
from pipelines.preparation.labels import IGNORE
from pipelines.preparation.labels.colors import voc_color
from pipelines.preparation.readers.pairing import pair_files
from pipelines.preparation.readers.reader import Listing, Reader, Record

# Names of the ids from 1; a dash is an id without labels.
THINGS = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, "
    "fire hydrant, -, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, "
    "elephant, bear, zebra, giraffe, -, backpack, umbrella, -, -, handbag, tie, suitcase, frisbee, "
    "skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, "
    "tennis racket, bottle, -, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, "
    "orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, -, "
    "dining table, -, -, toilet, -, tv, laptop, mouse, remote, keyboard, cell phone, microwave, "
    "oven, toaster, sink, refrigerator, -, book, clock, vase, scissors, teddy bear, hair drier, "
    "toothbrush, -"
)
STUFF = (
    "banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet, "
    "ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, "
    "dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, "
    "flower, fog, food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house, "
    "leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, "
    "pillow, plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock, "
    "roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, "
    "straw, structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick, "
    "wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, "
    "waterdrops, window-blind, window-other, wood"
)
CLASSES = {
    number: name
    for number, name in enumerate(f"{THINGS}, {STUFF}".split(", "), start=1)
    if name != "-"
}
SPLITS = {"train2017": "train", "val2017": "val"}
# Folders that the label archive is unpacked to, in order of preference.
LABELS = ("annotations", "stuffthingmaps", "stuffthingmaps_trainval2017")
# Files that other toolkits write next to the published labels.
CONVERTED = "_labelTrainIds"


@dataclass(frozen=True)
class COCOStuff(Reader):
    """171 classes: 80 things and 91 kinds of stuff; unlabeled pixels are ignored."""

    name = "coco-stuff"
    help = (
        "COCO-Stuff 164k: images/ and the stuffthingmaps in annotations/ or stuffthingmaps/, each "
        "with train2017/ and val2017/"
    )

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        return tuple(ClassInfo(name, voc_color(number)) for number, name in CLASSES.items())

    def values(self, record: Record) -> Mapping[int, int]:
        return {255: IGNORE, **{number - 1: index for index, number in enumerate(CLASSES)}}

    def listing(self) -> Listing:
        images = self.source / "images"
        images = images if images.is_dir() else self.source
        candidates = [self.source / name for name in LABELS]
        # COCO's own folder `annotations` holds JSON files.
        labels = next(
            (path for path in candidates if any((path / name).is_dir() for name in SPLITS)),
            candidates[0],
        )
        whole = Listing()
        for folder, split in SPLITS.items():
            if (images / folder).is_dir() or (labels / folder).is_dir():
                whole.add(pair_files(split, images / folder, labels / folder))
        published = [record for record in whole.records if CONVERTED not in record.identifier]
        if len(published) < len(whole.records):
            count = len(whole.records) - len(published)
            whole.notes.append(f"{count} converted labels, *{CONVERTED}.png, are not read")
            whole.records = published
        if not whole.records and not whole.problems:
            raise DatasetError(
                f"{self.source}: not COCO-Stuff; expected images/train2017/*.jpg and "
                f"{LABELS[0]}/train2017/*.png, or the same with val2017"
            )
        return whole
