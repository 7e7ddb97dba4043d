"""The manifest of a prepared data set: what it holds, and the fingerprint of its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from pipelines.errors import UserError

FORMAT = "segmentation-parquet"
# Raised whenever a reader of the older files would fail or misread the newer ones, or the reverse.
VERSION = 2
MANIFEST_NAME = "manifest.json"
INDEX_NAME = "index.parquet"


class DatasetError(UserError, ValueError):
    """A data set that cannot be used; says which file, what is wrong and what would work."""


@dataclass(frozen=True)
class ClassInfo:
    """A class and the colour (red, green, blue; 0-255) it is drawn in."""

    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class Shard:
    """One Parquet file.

    `sha256` is that of the file; `content` digests what its rows say, however Parquet stores it.
    """

    file: str
    split: str
    rows: int
    bytes: int
    sha256: str
    content: str


@dataclass(frozen=True)
class Manifest:
    """What a prepared data set holds.

    `counts`: images per split. `class_pixels`: pixels of each class over all labels,
    `ignored_pixels`: the others. `image_mean`: mean red, green, blue in [0, 1] over all images.
    `tile`: side in pixels of the tiles whose class centroids the rows list. `skipped`: the problems
    of the samples left out, one sentence each. `recipe` identifies source files and options;
    `index_sha256` is that of the file that lists the rows of all shards.
    """

    name: str
    classes: tuple[ClassInfo, ...]
    ignore_index: int
    counts: Mapping[str, int]
    class_pixels: tuple[int, ...]
    ignored_pixels: int
    image_mean: tuple[float, float, float]
    tile: int
    shards: tuple[Shard, ...]
    index_sha256: str
    skipped: tuple[str, ...] = ()
    recipe: str = ""

    @property
    def class_frequencies(self) -> tuple[float, ...]:
        """Share of each class among the labelled pixels; their sum is 1 if anything is labelled."""
        total = sum(self.class_pixels)
        return tuple(pixels / total if total else 0.0 for pixels in self.class_pixels)

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits that identify classes, samples and labels, however encoded."""
        described = {
            "name": self.name,
            "classes": [asdict(each) for each in self.classes],
            "ignore_index": self.ignore_index,
            "tile": self.tile,
            "content": [(shard.split, shard.rows, shard.content) for shard in self.shards],
        }
        return hashlib.sha256(_canonical(described).encode()).hexdigest()

    def to_json(self) -> str:
        """The manifest file's text; `from_json` reads it back and checks it."""
        document = {
            "format": FORMAT,
            "version": VERSION,
            "fingerprint": self.fingerprint,
            **asdict(self),
            "class_frequencies": self.class_frequencies,
        }
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """Parse a manifest file; `where` names it in errors.

        Raises:
            DatasetError: no manifest, another format version, or a fingerprint that does not fit.
        """
        try:
            document: dict[str, Any] = json.loads(text)
            if document["format"] != FORMAT:
                raise DatasetError(f"{where}: format {document['format']!r} is not {FORMAT!r}")
            if document["version"] != VERSION:
                raise DatasetError(
                    f"{where}: format version {document['version']} is not {VERSION}, which this "
                    "code reads; prepare the data set again"
                )
            values = {field.name: document[field.name] for field in fields(cls)}
            values["classes"] = tuple(
                ClassInfo(each["name"], tuple(each["color"])) for each in values["classes"]
            )
            values["shards"] = tuple(Shard(**each) for each in values["shards"])
            for name in ("class_pixels", "image_mean", "skipped"):
                values[name] = tuple(values[name])
            manifest = cls(**values)
            stated = document["fingerprint"]
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise DatasetError(
                f"{where}: damaged manifest ({error!r}); prepare the data set again"
            ) from error
        if manifest.fingerprint != stated:
            raise DatasetError(
                f"{where}: damaged manifest: its content has fingerprint "
                f"{manifest.fingerprint[:12]}, it states {stated[:12]}; prepare the data set again"
            )
        return manifest


def content_digest(rows: Iterable[str]) -> str:
    """One digest over the digests of a shard's rows, in order."""
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
