"""A reader of the user's own, in modules that tests write and change."""

from pathlib import Path

from tests.support.camvid_source import CamVidSource

READER = """
from dataclasses import dataclass

from own_classes import CLASSES
from pipelines.preparation.readers.camvid import CamVid


class Base(CamVid):
    @property
    def classes(self):
        return CLASSES


@dataclass(frozen=True)
class Own(Base):
    name = "own"
    help = "drives of my own"
    first: int = 0

    @classmethod
    def add_arguments(cls, parser):
        super().add_arguments(parser)
        parser.add_argument("--first", type=int, default=0, help="first image that counts")

    @classmethod
    def from_arguments(cls, arguments):
        return cls(arguments.source, arguments.first)

    def listing(self):
        listing = super().listing()
        listing.records = listing.records[self.first :]
        return listing
"""
CLASSES = """
from pipelines.data.manifest import ClassInfo

CLASSES = tuple(ClassInfo(f"class {index}", (index, 0, 0)) for index in range(11))
"""


def options(camvid: CamVidSource, destination: Path) -> list[str]:
    return ["--source", str(camvid.directory), "--destination", str(destination), "--workers", "1"]
