"""LoveDA, land cover in aerial images of rural and urban scenes, as published.

Wang, Zheng, Ma, Lu and Zhong, "LoveDA: a remote sensing land-cover dataset for domain adaptive
semantic segmentation", NeurIPS Datasets and Benchmarks 2021; class names and colors are those of
the authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.data.manifest import ClassInfo, DatasetError
from pipelines.preparation.readers.pairing import pair_files
from pipelines.preparation.readers.reader import Listing, Reader, Record, color, from_one

CLASSES = (
    ("background", 0xFFFFFF),
    ("building", 0xFF0000),
    ("road", 0xFFFF00),
    ("water", 0x0000FF),
    ("barren", 0x9F81B7),
    ("forest", 0x00FF00),
    ("agricultural", 0xFFC380),
)
DOMAINS = ("Rural", "Urban")
IMAGES, LABELS = "images_png", "masks_png"


@dataclass(frozen=True)
class LoveDA(Reader):
    """7 classes; label 0 (no data) is ignored, label k is class k - 1.

    A sample's group is its domain, `Rural` or `Urban`. The test split has no public labels and is
    prepared without.
    """

    name = "loveda"
    help = "LoveDA (Train/, Val/ and Test/ with Rural/ and Urban/: images_png/ and masks_png/)"

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        return tuple(ClassInfo(name, color(number)) for name, number in CLASSES)

    def values(self, record: Record) -> Mapping[int, int]:
        return from_one(len(CLASSES))

    def listing(self) -> Listing:
        whole = Listing()
        for split in ("train", "val", "test"):
            parent = _folder(self.source, split.capitalize())
            folders = {domain: _folder(parent, domain) for domain in DOMAINS}
            missing = [str(folder) for folder in folders.values() if not folder.is_dir()]
            if 0 < len(missing) < len(DOMAINS):
                whole.notes.append(
                    f"{split}: {', '.join(missing)}: no such folder, so the split lacks this domain"
                )
            for domain, folder in folders.items():
                if folder.is_dir():
                    labels = None if split == "test" else _folder(folder, LABELS)
                    part = pair_files(split, _folder(folder, IMAGES), labels)
                    part.records = [replace(record, group=domain) for record in part.records]
                    whole.add(part)
        if not whole.records and not whole.problems:
            raise DatasetError(
                f"{self.source}: not LoveDA; expected Train/Rural/{IMAGES}/*.png and "
                f"Train/Rural/{LABELS}/*.png, or the same with Urban or Val"
            )
        return whole


def _folder(parent: Path, name: str) -> Path:
    """Return the folder `name` of `parent`, in lower or upper case if it does not exist as such."""
    folder = parent / name
    if folder.is_dir() or not parent.is_dir():
        return folder
    alike = sorted(each for each in parent.iterdir() if each.name.lower() == name.lower())
    return next((each for each in alike if each.is_dir()), folder)
