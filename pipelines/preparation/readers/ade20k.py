"""ADE20K, the scene-parsing benchmark, as published: `ADEChallengeData2016` and `release_test`.

Zhou, Zhao, Puig, Fidler, Barriuso and Torralba, "Scene parsing through ADE20K dataset", CVPR 2017;
class names and colors are the benchmark's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.data.manifest import ClassInfo, DatasetError
from pipelines.preparation.readers.pairing import pair_files
from pipelines.preparation.readers.reader import Listing, Reader, Record, color, from_one

FOLDER = "ADEChallengeData2016"


@dataclass(frozen=True)
class ADE20K(Reader):
    """150 classes; label 0 ("other") is ignored, label k is class k - 1.

    The images of the test server are an archive of their own, and are prepared without labels.
    """

    name = "ade20k"
    help = (
        "ADE20K (ADEChallengeData2016: images/ and annotations/, training and validation; test "
        "images in images/testing/ or release_test/testing/)"
    )

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        return tuple(ClassInfo(name, color(number)) for name, number in CLASSES)

    def values(self, record: Record) -> Mapping[int, int]:
        return from_one(len(CLASSES))

    def listing(self) -> Listing:
        root = self.source / FOLDER if (self.source / FOLDER).is_dir() else self.source
        whole = Listing()
        for folder, split in (("training", "train"), ("validation", "val")):
            images, labels = root / "images" / folder, root / "annotations" / folder
            if images.is_dir() or labels.is_dir():
                whole.add(pair_files(split, images, labels))
        unlabeled = (
            root / "images" / "testing",
            *(parent / "release_test" / "testing" for parent in (root, self.source)),
        )
        test = next((folder for folder in unlabeled if folder.is_dir()), None)
        if test is not None:
            whole.add(pair_files("test", test, None))
        if not whole.records and not whole.problems:
            raise DatasetError(
                f"{self.source}: not ADE20K; expected {FOLDER}/images/training/*.jpg and "
                f"{FOLDER}/annotations/training/*.png, or the same with validation"
            )
        return whole


CLASSES = (
    ("wall", 0x787878),
    ("building", 0xB47878),
    ("sky", 0x06E6E6),
    ("floor", 0x503232),
    ("tree", 0x04C803),
    ("ceiling", 0x787850),
    ("road", 0x8C8C8C),
    ("bed", 0xCC05FF),
    ("windowpane", 0xE6E6E6),
    ("grass", 0x04FA07),
    ("cabinet", 0xE005FF),
    ("sidewalk", 0xEBFF07),
    ("person", 0x96053D),
    ("earth", 0x787846),
    ("door", 0x08FF33),
    ("table", 0xFF0652),
    ("mountain", 0x8FFF8C),
    ("plant", 0xCCFF04),
    ("curtain", 0xFF3307),
    ("chair", 0xCC4603),
    ("car", 0x0066C8),
    ("water", 0x3DE6FA),
    ("painting", 0xFF0633),
    ("sofa", 0x0B66FF),
    ("shelf", 0xFF0747),
    ("house", 0xFF09E0),
    ("sea", 0x0907E6),
    ("mirror", 0xDCDCDC),
    ("rug", 0xFF095C),
    ("field", 0x7009FF),
    ("armchair", 0x08FFD6),
    ("seat", 0x07FFE0),
    ("fence", 0xFFB806),
    ("desk", 0x0AFF47),
    ("rock", 0xFF290A),
    ("wardrobe", 0x07FFFF),
    ("lamp", 0xE0FF08),
    ("bathtub", 0x6608FF),
    ("railing", 0xFF3D06),
    ("cushion", 0xFFC207),
    ("base", 0xFF7A08),
    ("box", 0x00FF14),
    ("column", 0xFF0829),
    ("signboard", 0xFF0599),
    ("chest of drawers", 0x0633FF),
    ("counter", 0xEB0CFF),
    ("sand", 0xA09614),
    ("sink", 0x00A3FF),
    ("skyscraper", 0x8C8C8C),
    ("fireplace", 0xFA0A0F),
    ("refrigerator", 0x14FF00),
    ("grandstand", 0x1FFF00),
    ("path", 0xFF1F00),
    ("stairs", 0xFFE000),
    ("runway", 0x99FF00),
    ("case", 0x0000FF),
    ("pool table", 0xFF4700),
    ("pillow", 0x00EBFF),
    ("screen door", 0x00ADFF),
    ("stairway", 0x1F00FF),
    ("river", 0x0BC8C8),
    ("bridge", 0xFF5200),
    ("bookcase", 0x00FFF5),
    ("blind", 0x003DFF),
    ("coffee table", 0x00FF70),
    ("toilet", 0x00FF85),
    ("flower", 0xFF0000),
    ("book", 0xFFA300),
    ("hill", 0xFF6600),
    ("bench", 0xC2FF00),
    ("countertop", 0x008FFF),
    ("stove", 0x33FF00),
    ("palm", 0x0052FF),
    ("kitchen island", 0x00FF29),
    ("computer", 0x00FFAD),
    ("swivel chair", 0x0A00FF),
    ("boat", 0xADFF00),
    ("bar", 0x00FF99),
    ("arcade machine", 0xFF5C00),
    ("hovel", 0xFF00FF),
    ("bus", 0xFF00F5),
    ("towel", 0xFF0066),
    ("light", 0xFFAD00),
    ("truck", 0xFF0014),
    ("tower", 0xFFB8B8),
    ("chandelier", 0x001FFF),
    ("awning", 0x00FF3D),
    ("streetlight", 0x0047FF),
    ("booth", 0xFF00CC),
    ("television receiver", 0x00FFC2),
    ("airplane", 0x00FF52),
    ("dirt track", 0x000AFF),
    ("apparel", 0x0070FF),
    ("pole", 0x3300FF),
    ("land", 0x00C2FF),
    ("bannister", 0x007AFF),
    ("escalator", 0x00FFA3),
    ("ottoman", 0xFF9900),
    ("bottle", 0x00FF0A),
    ("buffet", 0xFF7000),
    ("poster", 0x8FFF00),
    ("stage", 0x5200FF),
    ("van", 0xA3FF00),
    ("ship", 0xFFEB00),
    ("fountain", 0x08B8AA),
    ("conveyer belt", 0x8500FF),
    ("canopy", 0x00FF5C),
    ("washer", 0xB800FF),
    ("plaything", 0xFF001F),
    ("swimming pool", 0x00B8FF),
    ("stool", 0x00D6FF),
    ("barrel", 0xFF0070),
    ("basket", 0x5CFF00),
    ("waterfall", 0x00E0FF),
    ("tent", 0x70E0FF),
    ("bag", 0x46B8A0),
    ("minibike", 0xA300FF),
    ("cradle", 0x9900FF),
    ("oven", 0x47FF00),
    ("ball", 0xFF00A3),
    ("food", 0xFFCC00),
    ("step", 0xFF008F),
    ("tank", 0x00FFEB),
    ("trade name", 0x85FF00),
    ("microwave", 0xFF00EB),
    ("pot", 0xF500FF),
    ("animal", 0xFF007A),
    ("bicycle", 0xFFF500),
    ("lake", 0x0ABED4),
    ("dishwasher", 0xD6FF00),
    ("screen", 0x00CCFF),
    ("blanket", 0x1400FF),
    ("sculpture", 0xFFFF00),
    ("hood", 0x0099FF),
    ("sconce", 0x0029FF),
    ("vase", 0x00FFCC),
    ("traffic light", 0x2900FF),
    ("tray", 0x29FF00),
    ("ashcan", 0xAD00FF),
    ("fan", 0x00F5FF),
    ("pier", 0x4700FF),
    ("crt screen", 0x7A00FF),
    ("plate", 0x00FFB8),
    ("monitor", 0x005CFF),
    ("bulletin board", 0xB8FF00),
    ("shower", 0x0085FF),
    ("radiator", 0xFFD600),
    ("glass", 0x19C2C2),
    ("clock", 0x66FF00),
    ("flag", 0x5C00FF),
)
