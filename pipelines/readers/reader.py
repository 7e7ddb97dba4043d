"""What a data set's own layout is to the preparation: a list of records and what labels mean."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from pipelines.manifest import ClassInfo, DatasetError

IGNORE = 255


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


@dataclass(frozen=True)
class Reader:
    """Base of all readers. A new data set is one subclass in a file of its own.

    A subclass sets `name` and `classes`, says what a stored label value means in `values` (class
    index or IGNORE; anything else is an error) and lists its files in `records`.
    """

    source: Path

    name: ClassVar[str]
    help: ClassVar[str]

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        raise NotImplementedError

    @property
    def values(self) -> Mapping[int, int]:
        """Class index (or IGNORE) of every value a label file may hold."""
        return {**{index: index for index in range(len(self.classes))}, IGNORE: IGNORE}

    def records(self) -> list[Record]:
        """All samples in a fixed order; DatasetError where the source has another layout."""
        raise NotImplementedError

    def read(self, record: Record) -> tuple[bytes, bytes | None]:
        """The encoded image and label of a record; OSError where a file is missing."""
        label = None if record.label is None else record.label.read_bytes()
        return record.image.read_bytes(), label

    def bytes(self, record: Record) -> int:
        """About how many bytes the record will take; 0 for missing files."""
        files = [file for file in (record.image, record.label) if file is not None]
        return sum(file.stat().st_size for file in files if file.exists())

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


def duplicates(records: Iterable[Record]) -> list[str]:
    """A sentence for every identifier that occurs twice in a split."""
    seen = Counter((record.split, record.identifier) for record in records)
    return [
        f"{identifier!r} occurs {count} times in split {split!r}"
        for (split, identifier), count in seen.items()
        if count > 1
    ]


def require_directory(directory: Path, layout: str) -> None:
    """Raises DatasetError unless `directory` exists; `layout` says what was looked for."""
    if not directory.is_dir():
        raise DatasetError(f"{directory}: no such directory; expected {layout}")


def color(number: int) -> tuple[int, int, int]:
    """A colour written 0xRRGGBB."""
    return number >> 16 & 255, number >> 8 & 255, number & 255
