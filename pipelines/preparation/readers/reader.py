"""What a data set's own layout is to the preparation: a list of records and what labels mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.data.manifest import ClassInfo
from pipelines.preparation.labels import IGNORE, stored_values

PICTURE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"))


@dataclass(frozen=True)
class Record:
    """One sample of the source: where its files lie; without a label file it is unlabelled.

    `group` names what several samples share, such as a city or a drive.
    """

    identifier: str
    split: str
    image: Path
    label: Path | None
    group: str | None = None


@dataclass
class Listing:
    """All samples of a source in a fixed order, and what is wrong with the source as a whole, such
    as a split that is empty: one sentence each, reported with the problems of the samples."""

    records: list[Record] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, other: Listing) -> None:
        self.records += other.records
        self.problems += other.problems


@dataclass(frozen=True)
class Reader(ABC):
    """Base of all readers. A new data set is one subclass in a file of its own.

    A subclass sets `name` and `classes`, says what a stored label value means in `values` (class
    index or IGNORE; anything else is an error) and lists its files in `listing`.
    """

    source: Path

    name: ClassVar[str]
    help: ClassVar[str]

    @property
    @abstractmethod
    def classes(self) -> tuple[ClassInfo, ...]:
        """The classes in the order of their indices."""

    def values(self, record: Record) -> Mapping[int, int]:
        """Class index (or IGNORE) of every value the record's label file may hold."""
        return {**{index: index for index in range(len(self.classes))}, IGNORE: IGNORE}

    @abstractmethod
    def listing(self) -> Listing:
        """All samples of the source; DatasetError where it has another layout."""

    def read(self, record: Record) -> tuple[bytes, bytes | None]:
        """The encoded image and label of a record; OSError where a file is missing."""
        label = None if record.label is None else record.label.read_bytes()
        return record.image.read_bytes(), label

    def indices(self, record: Record, picture: Image.Image) -> NDArray[np.uint16]:
        """The stored values of a record's decoded label, (height, width); ImageError if none."""
        return stored_values(picture, self.values(record), self.classes)

    def bytes(self, record: Record) -> int:
        """About how many bytes the record will take; 0 for missing files."""
        files = [file for file in (record.image, record.label) if file is not None]
        return sum(file.stat().st_size for file in files if file.exists())

    def stamp(self, record: Record) -> str:
        """Changes when the record's files do: their sizes and times of modification."""
        files = [file for file in (record.image, record.label) if file is not None]
        stats = [file.stat() for file in files if file.exists()]
        return " ".join(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in stats)

    @property
    def title(self) -> str:
        """The prepared data set's name."""
        return self.name

    @property
    def version(self) -> str:
        """Changes whenever the same source would be read differently."""
        return f"{self.name} 1"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Declare the reader's own command-line arguments."""
        parser.add_argument("--source", type=Path, required=True, help="directory of the data set")

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Self:
        return cls(source=arguments.source)


def duplicates(records: Iterable[Record]) -> dict[tuple[str, str], int]:
    """How often each (split, identifier) occurs of those that occur more than once."""
    seen = Counter((record.split, record.identifier) for record in records)
    return {name: count for name, count in seen.items() if count > 1}


def pair_files(split: str, images: Path, labels: Path | None) -> Listing:
    """Records of the images and labels below two folders that have the same name but for the
    ending; what lacks its counterpart is listed too, and found missing when it is read."""
    for folder in (images, labels):
        if folder is not None and not folder.is_dir():
            return Listing(problems=[f"{split}: {folder}: no such folder"])
    named = _by_name(images)
    if not named:
        return Listing(problems=[f"{split}: {images}: holds no images"])
    labelled = {} if labels is None else _by_name(labels)
    records = []
    for name in sorted({*named, *labelled}):
        label = labelled.get(name, [None if labels is None else labels / f"{name}.png"])[0]
        # Several images of one name make several records, which `duplicates` reports.
        for image in named.get(name, [images / f"{name}.jpg"]):
            records.append(Record(name, split, image, label))
    return Listing(records)


def visible(path: Path, root: Path) -> bool:
    """Whether no part of a path below `root` begins with a dot, as copies of a Mac's metadata
    (`._name.png`) and editors' caches do."""
    return not any(part.startswith(".") for part in path.relative_to(root).parts)


def _by_name(folder: Path) -> dict[str, list[Path]]:
    """Pictures below a folder by relative path without ending."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        picture = path.suffix.lower() in PICTURE_SUFFIXES and visible(path, folder)
        if picture and path.is_file():
            name = path.relative_to(folder).with_suffix("").as_posix()
            found.setdefault(name, []).append(path)
    return found


def color(number: int) -> tuple[int, int, int]:
    """A colour written 0xRRGGBB."""
    return number >> 16 & 255, number >> 8 & 255, number & 255
