"""Base class of the readers: lists a data set's samples and says what its label values mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.data.manifest import ClassInfo
from pipelines.preparation.images.files import IMAGE_EXTENSIONS, read_lines
from pipelines.preparation.images.reading import Exif, ImageReading
from pipelines.preparation.labels import IGNORE
from pipelines.preparation.labels.advice import FOLDER_ADVICE, LabelAdvice
from pipelines.preparation.labels.class_indices import stored_values
from pipelines.preparation.labels.colors import gif_levels


@dataclass(frozen=True)
class Record:
    """One sample of the source.

    image, label: its files; label is None for an unlabeled sample.
    group: what several samples share, such as a city or a drive.
    """

    identifier: str
    split: str
    image: Path
    label: Path | None
    group: str | None = None


@dataclass
class Listing:
    """All samples of a source in a fixed order.

    problems: of the source as a whole, such as an empty split, one sentence each; they are reported
        with the problems of the samples.
    notes: what a user should know about the source, such as files left out, one sentence each.
    splits: that the source describes; those of the records need not be named.
    """

    records: list[Record] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    splits: set[str] = field(default_factory=set)

    def add(self, other: Listing) -> None:
        self.records += other.records
        self.problems += other.problems
        self.notes += other.notes
        self.splits |= other.splits

    def without_records(self) -> Listing:
        """Return a copy of all that concerns the source as a whole."""
        return Listing([], list(self.problems), list(self.notes), set(self.splits))


@dataclass(frozen=True)
class Reader(ABC):
    """Base class of all readers; a new data set needs one subclass in its own file.

    A subclass defines `name`, `help` and `classes`, maps stored label values to class indices in
    `values`, and lists its files in `listing`.
    """

    source: Path

    name: ClassVar[str]
    help: ClassVar[str]
    # Whether images are files that can be looked at before they are read.
    has_files: ClassVar[bool] = True
    # Whether EXIF orientation is applied where no size shows on which pixels labels were drawn;
    # None requires the user to decide. The benchmarks' own code reads images as stored.
    unclear_exif: ClassVar[Exif | None] = "ignore"

    @property
    @abstractmethod
    def classes(self) -> tuple[ClassInfo, ...]:
        """The classes in the order of their indices."""

    def values(self, record: Record) -> Mapping[int, int]:
        """Return the class index (or IGNORE) of every valid value in the record's label file."""
        return {**{index: index for index in range(len(self.classes))}, IGNORE: IGNORE}

    @abstractmethod
    def listing(self) -> Listing:
        """List all samples of the source. Raises DatasetError if it has another layout."""

    def read(self, record: Record) -> tuple[bytes, bytes | None]:
        """Return a record's encoded image and label. Raises OSError if a file is missing."""
        label = None if record.label is None else record.label.read_bytes()
        return record.image.read_bytes(), label

    def indices(self, record: Record, label_image: Image.Image) -> NDArray[np.uint16]:
        """Return the stored values of a record's decoded label, uint16 (height, width).

        Raises ImageError if the label has another form, such as colors.
        """
        advice = self.label_advice
        levels = gif_levels(label_image, advice)
        return stored_values(levels, self.values(record), self.classes, advice)

    @property
    def reads_colors(self) -> bool:
        """Whether labels are images in the classes' colors instead of class indices."""
        return False

    @property
    def states_ignored(self) -> bool:
        """Whether someone has stated which values are ignored, instead of 255 by default."""
        return True

    @property
    def states_groups(self) -> bool:
        """Whether someone has stated which samples share a group, so that other groups of the same
        samples are another data set."""
        return False

    @property
    def image_reading(self) -> ImageReading:
        """How images become pixels."""
        if self.is_own:
            return ImageReading()
        return ImageReading(file="the dataset.yaml of a `folder` data set")

    @property
    def is_own(self) -> bool:
        """Whether the class is the user's, and not one of this package."""
        return type(self).__module__.partition(".")[0] != "pipelines"

    @property
    def label_advice(self) -> LabelAdvice:
        """What messages about the labels advise."""
        return LabelAdvice(type(self).__name__) if self.is_own else FOLDER_ADVICE

    def bytes(self, record: Record) -> int:
        """Return about how many bytes the record will take; 0 for missing files."""
        files = [file for file in (record.image, record.label) if file is not None]
        return sum(file.stat().st_size for file in files if file.exists())

    def stamp(self, record: Record) -> str:
        """Return the sizes and modification times of the record's files, to notice changes."""
        files = [file for file in (record.image, record.label) if file is not None]
        stats = [file.stat() for file in files if file.exists()]
        return " ".join(f"{stat.st_size}:{stat.st_mtime_ns}" for stat in stats)

    @property
    def title(self) -> str:
        """The prepared data set's name."""
        return self.name

    @property
    def version(self) -> str:
        """A text that changes whenever the same source would be read differently."""
        return f"{self.name} 1"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        """Add the reader's command-line arguments."""
        parser.add_argument("--source", type=Path, required=True, help="directory of the data set")

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Self:
        return cls(source=arguments.source)


def duplicates(records: Iterable[Record]) -> dict[tuple[str, str], int]:
    """Count the (split, identifier) pairs that occur more than once."""
    seen = Counter((record.split, record.identifier) for record in records)
    return {name: count for name, count in seen.items() if count > 1}


def read_names(path: Path, split: str, record: Callable[[str, str], Record]) -> Listing:
    """Return `record(split, name)` for each name in a list of a split's samples: a text file of
    names in lines or columns.

    An entry may be the path of an image or label, which stands for the name of its file; a line
    with both, as in DeepLab's lists, is one entry.
    """
    try:
        names = [
            name for line in read_lines(path) for name in dict.fromkeys(map(_name, line.split()))
        ]
    except (OSError, ValueError) as error:
        problem = f"{path}: cannot be read as a list of names ({error})"
        return Listing(problems=[problem], splits={split})
    if not names:
        return Listing(problems=[f"{path}: lists no samples"], splits={split})
    return Listing([record(split, name) for name in names])


def _name(entry: str) -> str:
    file = PurePosixPath(entry)
    return file.stem if file.suffix.lower() in IMAGE_EXTENSIONS else entry


def color(number: int) -> tuple[int, int, int]:
    """Convert a color written 0xRRGGBB to red, green, blue."""
    return number >> 16 & 255, number >> 8 & 255, number & 255


def from_one(classes: int) -> dict[int, int]:
    """Return the values of labels in which 0 is ignored and k is class k - 1."""
    return {0: IGNORE, **{index + 1: index for index in range(classes)}}
