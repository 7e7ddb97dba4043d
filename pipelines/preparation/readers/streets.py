"""The embedded data set: street scenes that are rendered, not read."""

from __future__ import annotations

import hashlib
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Self

from pipelines.data.image_io import encode_png
from pipelines.data.manifest import ClassInfo
from pipelines.option_types import parse_size
from pipelines.preparation import streets
from pipelines.preparation.readers.reader import Listing, Reader, Record

# Distance between the splits' scene numbers, so that no split size makes two splits share scenes.
SPLIT_STRIDE = 1_000_000


@dataclass(frozen=True)
class Streets(Reader):
    """Random street scenes.

    train, val: number of scenes in each split.
    size: height and width of the images.
    seed: keys the scenes.
    """

    source: Path = Path()
    train: int = 240
    val: int = 60
    size: tuple[int, int] = (128, 256)
    seed: int = 0

    name = "streets"
    help = "procedural street scenes, rendered on this machine without any download"
    has_files = False

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
        return ""  # `version` identifies the scenes

    @property
    def version(self) -> str:
        return f"{self.name} {_renderer_version()} {self.size} {self.seed}"

    @classmethod
    def add_arguments(cls, parser: ArgumentParser) -> None:
        for name, default, meaning in (
            ("train", cls.train, "training scenes"),
            ("val", cls.val, "validation scenes"),
            ("seed", cls.seed, "seed of the scenes"),
        ):
            parser.add_argument(
                f"--{name}",
                type=_natural,
                default=default,
                metavar="N",
                help=f"{meaning} (default: {default})",
            )
        parser.add_argument(
            "--size",
            type=partial(parse_size, least=16),
            default=cls.size,
            metavar="HxW",
            help="height and width of the images in pixels (default: 128x256)",
        )

    @classmethod
    def from_arguments(cls, arguments: Namespace) -> Self:
        return cls(
            train=arguments.train, val=arguments.val, size=arguments.size, seed=arguments.seed
        )


@cache
def _renderer_version() -> str:
    """Return a digest of the renderer's sources: another renderer produces another data set."""
    digest = hashlib.sha256()
    for path in sorted(Path(streets.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError(f"must be a whole number from 0, received {text!r}")
    return int(text)
