"""A custom reader: a data set that lists its images, labels and groups in a table."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.data.manifest import ClassInfo, DatasetError
from pipelines.preparation.readers.reader import Listing, Reader, Record, from_one


@dataclass(frozen=True)
class Fields(Reader):
    """Aerial images of fields: 3 classes; label value 0 is ignored, k is class k - 1."""

    name = "fields"
    help = "SOURCE/samples.csv with the columns split, farm, image and label (paths in SOURCE)"

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        return (
            ClassInfo("soil", (150, 110, 70)),
            ClassInfo("crop", (60, 160, 60)),
            ClassInfo("weed", (220, 60, 60)),
        )

    def values(self, record: Record) -> Mapping[int, int]:
        return from_one(len(self.classes))

    def listing(self) -> Listing:
        table = self.source / "samples.csv"
        if not table.is_file():
            raise DatasetError(f"{self.source}: not a folder of fields; expected samples.csv")
        with table.open(encoding="utf-8", newline="") as file:
            return Listing([self._record(row) for row in csv.DictReader(file)])

    def _record(self, row: Mapping[str, str]) -> Record:
        label = self.source / row["label"] if row["label"] else None
        image = self.source / row["image"]
        return Record(Path(row["image"]).stem, row["split"], image, label, group=row["farm"])
