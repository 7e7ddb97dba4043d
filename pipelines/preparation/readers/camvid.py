"""CamVid in the layout of the SegNet tutorial: pairs of PNGs, listed in a text file per split.

Brostow, Fauqueur and Cipolla, "Semantic object classes in video: a high-definition ground truth
database", 2009; the 11 classes are SegNet's (Badrinarayanan et al., 2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.data.manifest import ClassInfo, DatasetError
from pipelines.preparation.images.files import read_lines
from pipelines.preparation.labels import IGNORE
from pipelines.preparation.readers.reader import Listing, Reader, Record

LAYOUT = "train.txt, val.txt or test.txt with an image and its label in each line"
VOID = 11


@dataclass(frozen=True)
class CamVid(Reader):
    """11 classes; label value 11 is ignored. A sample's group is its drive, such as `0001TP`."""

    name = "camvid"
    help = "CamVid, SegNet's layout: train.txt, val.txt, test.txt next to the folders they list"

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        return (
            ClassInfo("sky", (128, 128, 128)),
            ClassInfo("building", (128, 0, 0)),
            ClassInfo("pole", (192, 192, 128)),
            ClassInfo("road", (128, 64, 128)),
            ClassInfo("pavement", (60, 40, 222)),
            ClassInfo("tree", (128, 128, 0)),
            ClassInfo("sign symbol", (192, 128, 128)),
            ClassInfo("fence", (64, 64, 128)),
            ClassInfo("car", (64, 0, 128)),
            ClassInfo("pedestrian", (64, 64, 0)),
            ClassInfo("bicyclist", (0, 128, 192)),
        )

    def values(self, record: Record) -> Mapping[int, int]:
        return {**super().values(record), VOID: IGNORE}

    def listing(self) -> Listing:
        lists = [self.source / f"{split}.txt" for split in ("train", "val", "test")]
        existing = [path for path in lists if path.is_file()]
        if not existing:
            raise DatasetError(f"{self.source}: not CamVid in SegNet's layout; expected {LAYOUT}")
        whole = Listing()
        for path in existing:
            whole.add(self._read_list(path))
        return whole

    def _read_list(self, path: Path) -> Listing:
        listing = Listing(splits={path.stem})
        try:
            lines = read_lines(path)
        except (OSError, ValueError) as error:
            listing.problems.append(f"{path}: cannot be read as a list of names ({error})")
            return listing
        for number, line in enumerate(lines, start=1):
            names = line.strip("; ").split()
            if len(names) == 2:
                image, label = (self._resolve(name) for name in names)
                drive = image.stem.rpartition("_")[0]
                listing.records.append(Record(image.stem, path.stem, image, label, drive or None))
            elif names:
                listing.problems.append(
                    f"{path}:{number}: expected an image and a label, received {line!r}"
                )
        if not listing.records and not listing.problems:
            listing.problems.append(f"{path}: lists no samples")
        return listing

    def _resolve(self, name: str) -> Path:
        """Return the listed file. Only the folder's and the file's name count, because the paths in
        the published lists start with /SegNet/CamVid/."""
        return self.source.joinpath(*Path(name).parts[-2:])
