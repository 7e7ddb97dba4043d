"""The embedded data set: street scenes rendered instead of read."""

from __future__ import annotations

import hashlib
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

from pipelines.data.image_io import encode_png
from pipelines.data.manifest import ClassInfo
from pipelines.preparation import streets
from pipelines.preparation.readers.reader import Listing, Reader, Record

# Room between the scenes of the splits, so that a larger split repeats no other's scenes.
SPLIT_STRIDE = 1_000_000


@dataclass(frozen=True)
class Streets(Reader):
    """`train` and `val` scenes of `size` (height, width) from the world `seed`."""

    source: Path = Path()
    train: int = 240
    val: int = 60
    size: tuple[int, int] = (128, 256)
    seed: int = 0

    name = "streets"
    help = "procedural street scenes, made here: nothing to download"

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        return streets.CLASSES

    def listing(self) -> Listing:
        records = [
            Record(f"{split}-{index:05d}", split, Path(str(offset + index)), None)
            for split, count, offset in (("train", self.train, 0), ("val", self.val, SPLIT_STRIDE))
            for index in range(count)
        ]
        return Listing(records)

    def read(self, record: Record) -> tuple[bytes, bytes | None]:
        image, label = streets.render_street(self.seed, int(record.image.name), *self.size)
        return encode_png(image), encode_png(label)

    def bytes(self, record: Record) -> int:
        height, width = self.size
        return 2 * height * width

    def stamp(self, record: Record) -> str:
        return ""  # `version` says it all

    @property
    def version(self) -> str:
        return f"{self.name} {_renderer_version()} {self.size} {self.seed}"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        parser.add_argument("--train", type=int, default=cls.train, metavar="N")
        parser.add_argument("--val", type=int, default=cls.val, metavar="N")
        parser.add_argument(
            "--size", type=parse_size, default=cls.size, metavar="WxH", help="default: 256x128"
        )
        parser.add_argument("--seed", type=int, default=cls.seed)

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Self:
        return cls(
            train=arguments.train, val=arguments.val, size=arguments.size, seed=arguments.seed
        )


@cache
def _renderer_version() -> str:
    """Digest of the renderer's sources: another renderer makes another data set."""
    digest = hashlib.sha256()
    for path in sorted(Path(streets.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def parse_size(text: str) -> tuple[int, int]:
    """Height and width of `WIDTHxHEIGHT`."""
    try:
        width, height = (int(part) for part in text.lower().split("x"))
        if min(width, height) < 16:
            raise ValueError
    except ValueError:
        raise ArgumentTypeError(
            f"{text!r} is not WIDTHxHEIGHT, such as 256x128 (16 pixels at least)"
        ) from None
    return height, width
