"""The manifest of a prepared data set: its content, and a fingerprint of it."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from pipelines.data.image_format import RGB, ImageFormat
from pipelines.errors import UserError

FORMAT = "segmentation-parquet"
# Increase it whenever older code cannot read newer files correctly, or newer code older files.
VERSION = 2
# Of data sets with images other than 8-bit RGB in ImageNet's normalization.
FORMATTED_VERSION = 3
MANIFEST_NAME = "manifest.json"
# Of an unfinished preparation.
JOURNAL_NAME = "journal.json"
# Not `.parquet`: Hugging Face `datasets` would read it as rows of the data set.
INDEX_NAME = "index.pq"
# Describes a folder of images that is yet to be prepared.
DESCRIPTION_NAME = "dataset.yaml"


class DatasetError(UserError, ValueError):
    """A data set that cannot be used; the message names the file, the problem and the remedy."""


@dataclass(frozen=True)
class ClassInfo:
    """A class and its color (red, green, blue; 0-255)."""

    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class Shard:
    """One Parquet file.

    `sha256` is the hash of the file; `content` is a hash of its rows, independent of the encoding.
    """

    file: str
    split: str
    rows: int
    bytes: int
    sha256: str
    content: str


@dataclass(frozen=True)
class Manifest:
    """The content of a prepared data set.

    `counts`: images per split. `class_pixels`: pixels of each class over all labels;
    `ignored_pixels`: all other pixels. `image_mean`: mean of each channel in [0, 1] over all
    images. `tile`: side in pixels of the tiles of the class centroids. `index_sha256`: hash of the
    index file, which lists the rows of all shards. `skipped`: one sentence about each problem that
    excluded a sample. `recipe`: hash of source files and options. `notes`: one sentence about each
    thing that a user should know about the source, such as files left out. `images`: the format of
    the images.
    """

    name: str
    classes: tuple[ClassInfo, ...]
    ignore_index: int
    counts: Mapping[str, int]
    class_pixels: tuple[int, ...]
    ignored_pixels: int
    image_mean: tuple[float, ...]
    tile: int
    shards: tuple[Shard, ...]
    index_sha256: str
    skipped: tuple[str, ...] = ()
    recipe: str = ""
    notes: tuple[str, ...] = ()
    images: ImageFormat = RGB

    @property
    def class_frequencies(self) -> tuple[float, ...]:
        """Fraction of each class among the labeled pixels; all 0 if no pixel is labeled."""
        total = sum(self.class_pixels)
        return tuple(pixels / total if total else 0.0 for pixels in self.class_pixels)

    @cached_property
    def fingerprint(self) -> str:
        """Hash (64 hexadecimal digits) of classes, samples and labels, however encoded."""
        content = {
            "name": self.name,
            "classes": [asdict(entry) for entry in self.classes],
            "ignore_index": self.ignore_index,
            "tile": self.tile,
            "content": [(shard.split, shard.rows, shard.content) for shard in self.shards],
        }
        computing = self.images.computing()
        if computing:
            content["images"] = computing
        return hashlib.sha256(_canonical_json(content).encode()).hexdigest()

    def to_json(self) -> str:
        """Return the text of the manifest file; `from_json` parses and checks it."""
        document = {
            "format": FORMAT,
            "version": FORMATTED_VERSION if self.images.computing() else VERSION,
            "fingerprint": self.fingerprint,
            **asdict(self),
            "class_frequencies": self.class_frequencies,
        }
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """Parse the manifest file at `where`, a path for error messages.

        Raises:
            DatasetError: `text` is not a manifest, has another format version, or does not match
                its fingerprint.
        """
        remedy = f"delete {where.removesuffix(f'/{MANIFEST_NAME}')} and prepare it again"
        try:
            document: dict[str, Any] = json.loads(text)
            if document["format"] != FORMAT:
                raise DatasetError(f"{where}: format {document['format']!r} is not {FORMAT!r}")
            if document["version"] not in (VERSION, FORMATTED_VERSION):
                raise DatasetError(
                    f"{where}: format version {document['version']} is not {VERSION} or "
                    f"{FORMATTED_VERSION}, the supported versions; {remedy}"
                )
            values = {field.name: document[field.name] for field in fields(cls)}
            values["classes"] = tuple(
                ClassInfo(entry["name"], tuple(entry["color"])) for entry in values["classes"]
            )
            values["shards"] = tuple(Shard(**entry) for entry in values["shards"])
            for name in ("class_pixels", "image_mean", "skipped", "notes"):
                values[name] = tuple(values[name])
            images: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in values["images"].items()
            }
            values["images"] = ImageFormat(**images)
            manifest = cls(**values)
            recorded_fingerprint = document["fingerprint"]
        except DatasetError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{where}: damaged manifest ({error!r}); {remedy}") from error
        if manifest.fingerprint != recorded_fingerprint:
            raise DatasetError(
                f"{where}: damaged manifest: its content has fingerprint "
                f"{manifest.fingerprint[:12]}, but it records {recorded_fingerprint[:12]}; {remedy}"
            )
        return manifest


def metric_name(name: str) -> str:
    """Return `name` with the characters that tracking stores reject replaced by hyphens."""
    return re.sub(r"[^\w./-]+", "-", name)


# MLflow takes 250 characters, of which `eval/PROTOCOL/METRIC/` needs up to about 70.
_LONGEST_NAME = 180


def name_problem(names: Sequence[str]) -> str | None:
    """Return why scores by class could not be recorded under these class names, or None."""
    recorded: dict[str, str] = {}
    for name in names:
        key = metric_name(name)
        if not name.isprintable():
            return f"the name {name!r} has a line break or a control character; rename the class"
        if not any(character.isalnum() for character in key):
            return f"the name {name!r} has no letter or digit; rename the class"
        if len(key) > _LONGEST_NAME:
            return (
                f"the name {name[:20]!r}... has {len(name)} characters, more than the "
                f"{_LONGEST_NAME} with which scores can be recorded; shorten it"
            )
        # As a part of a path, which MLflow demands in its normal form.
        if posixpath.normpath(f"iou/{key}") != f"iou/{key}":
            return (
                f"the name {name!r} cannot be recorded, because a part between slashes is empty, "
                "'.' or '..'; rename the class"
            )
        if key in recorded:
            return (
                f"{recorded[key]!r} and {name!r} would both be recorded as {key!r}, because a "
                "metric's name can have letters, digits and _ . - / only; rename one of them"
            )
        recorded[key] = name
    return None


def content_digest(rows: Iterable[str]) -> str:
    """Return a hash of the digests of a shard's rows, in order."""
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _canonical_json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
